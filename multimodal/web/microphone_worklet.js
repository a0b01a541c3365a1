// Hands the sound of the microphone on, in blocks of 16-bit samples of one channel.
"use strict";

const BLOCK = 1024;

class MicrophoneTap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(BLOCK);
    this.count = 0;
  }

  process([channels]) {
    const sound = channels[0];
    if (!sound) return true;
    for (const value of sound) {
      this.block[this.count++] = Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      if (this.count < BLOCK) continue;
      this.port.postMessage(this.block);
      this.block = new Int16Array(BLOCK);
      this.count = 0;
    }
    return true;
  }
}

registerProcessor("microphone-tap", MicrophoneTap);
