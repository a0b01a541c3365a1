
// ---------------------------------------------------------------- talking hands-free

// The microphone stays open and its sound goes to the server, which finds the turns (hands_free.py).
// While an answer is heard, a sound lowers it and words end it.
const talkBar = $(".talk"), talkButton = $(".hands-free"), muteButton = $(".mute"), caption = $(".caption");
const TALK_EVERY_MS = 60, MUTED_EVERY_MS = 1000, RETRY_MS = 500, MOST_RETRIES = 20, KEPT_BLOCKS = 250, LOWERED = 0.2, FADE_S = 0.05, ECHO_MS = 1000, PCM_RATE = 24000, START_S = 0.03;
const TALK_PHASES = { preparing: "Getting ready", listening: "Listening", hearing: "Listening", thinking: "Thinking", answering: "Answering; speak to interrupt", muted: "Muted" };
let talk = null;

const startTalk = async () => {
  if (talk || recording) return;
  const mine = talk = { draft: current(), blocks: [], isMuted: false, isReady: false, phase: "", output: new AudioContext(), heardUntilMs: 0 };
  showTalk(mine, "preparing");
  mine.stream = await openMicrophone({ channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true });
  if (!mine.stream || talk !== mine) { mine.stream?.getTracks().forEach((track) => track.stop()); endTalk(mine); return; }
  mine.stream.getTracks()[0].addEventListener("ended", () => { endTalk(mine); complain("The microphone was taken away, so the conversation has ended."); });
  try { await tapMicrophone(mine); }
  catch (error) { endTalk(mine); complain(`This browser cannot listen while it plays (${error.message}). Record what you say instead.`); return; }
  while (chat === null && talk === mine) await new Promise((done) => setTimeout(done, TALK_EVERY_MS)); // the page is still loading
  ask("input", { do: "hands_free", chat: chat || "" }, ({ address, error }) => {
    if (error || talk !== mine) { endTalk(mine); if (address) fetch(address, { method: "DELETE" }).catch(() => {}); return; }
    mine.address = address;
    exchange(mine);
  });
};
const tapMicrophone = async (mine) => {
  let source;
  try {
    mine.context = new AudioContext({ sampleRate: 16000 });
    source = mine.context.createMediaStreamSource(mine.stream);
  } catch { // some browsers do not change the rate of a microphone; the server does
    mine.context?.close();
    mine.context = new AudioContext();
    source = mine.context.createMediaStreamSource(mine.stream);
  }
  await mine.context.audioWorklet.addModule("microphone.js");
  const tap = new AudioWorkletNode(mine.context, "microphone-tap", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  tap.port.addEventListener("message", ({ data }) => {
    if (talk !== mine || mine.isMuted || !mine.isReady) return;
    mine.blocks.push(data);
    if (mine.blocks.length > KEPT_BLOCKS) mine.blocks.shift();
    const power = Math.sqrt(data.reduce((sum, value) => sum + value * value, 0) / data.length) / 32768;
    talkBar.style.setProperty("--level", Math.min(1, power * 6).toFixed(2));
  });
  tap.port.start();
  source.connect(tap);
};

// what is sent, and what comes back

const isSounding = (mine) => Boolean(mine.sound?.begun) && mine.output.currentTime < mine.sound.untilS;
const moment = (mine) => { // of the answer that is heard, or was until a moment ago; "" where none is
  const { sound } = mine;
  if (sound?.begun) return (sound.seconds - Math.max(0, sound.untilS - mine.output.currentTime)).toFixed(2);
  if (performance.now() < mine.heardUntilMs) return mine.heardS.toFixed(2);
  return busy ? "0" : "";
};
const exchange = async (mine) => {
  let retries = 0;
  while (talk === mine) {
    await new Promise((done) => setTimeout(done, retries ? RETRY_MS : mine.isMuted ? MUTED_EVERY_MS : TALK_EVERY_MS));
    const blocks = mine.blocks.splice(0);
    const body = new Int16Array(blocks.reduce((sum, block) => sum + block.length, 0));
    let at = 0;
    for (const block of blocks) { body.set(block, at); at += block.length; }
    let reply, answer;
    try {
      const query = new URLSearchParams({ rate: mine.context.sampleRate, sounding: moment(mine) });
      reply = await fetch(`${mine.address}?${query}`, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
      answer = await reply.json();
    } catch {
      mine.blocks.unshift(...blocks);
      if (++retries > MOST_RETRIES) { endTalk(mine); complain("The program cannot be reached, so the conversation has ended. Start it again."); }
      continue;
    }
    retries = 0;
    if (talk !== mine) return;
    if (!reply.ok) { endTalk(mine); complain(answer.error || "The program ended the conversation. Begin it again."); return; }
    takeHeard(mine, answer);
  }
};
const takeHeard = (mine, { phase, told, heard }) => {
  endSound(mine);
  if (phase === "preparing") showTalk(mine, "preparing", told);
  else if (!mine.isReady) { mine.isReady = true; showTalk(mine, "listening"); announce("Listening. Speak whenever you like."); }
  for (const { kind, words, language } of heard) {
    if (kind === "speech") { setLoudness(mine, LOWERED); if (!isSounding(mine) && !busy) showTalk(mine, "hearing"); }
    else if (kind === "caption") caption.textContent = words;
    else if (kind === "interruption") interrupt(mine);
    else if (kind === "noise") { caption.textContent = ""; restoreSound(mine); }
    else if (kind === "fault") { caption.textContent = ""; restoreSound(mine); complain(words); }
    else if (kind === "turn") sendTurn(mine, words, language);
  }
  if (mine.phase === "thinking" && !busy && !pending && !mine.sound && !mine.isAsking) showTalk(mine, "listening");
};
const restoreSound = (mine) => {
  setLoudness(mine, 1);
  showTalk(mine, isSounding(mine) ? "answering" : busy ? "thinking" : "listening");
};
const interrupt = (mine) => {
  silence(mine);
  if (busy) ask("input", { do: "stop", chat });
  showTalk(mine, "hearing");
};
const sendTurn = (mine, words, language) => {
  interrupt(mine);
  caption.textContent = "";
  showTalk(mine, "thinking");
  const draft = current();
  const files = draft.files.filter((file) => !file.error);
  draft.files = draft.files.filter((file) => file.error);
  mine.isAsking = true;
  submit({ nonce: uuid(), text: words, files, spoken: { address: mine.address, language }, whenSent: (answer) => takeSound(mine, answer) }, draft);
};

// what is heard of the answer

const takeSound = (mine, { sound, error }) => {
  mine.isAsking = false;
  if (talk !== mine || error || !sound) return;
  if (sound.why) complain(sound.why);
  if (!sound.address) return;
  silence(mine);
  hear(mine, sound.address);
};
// An audio element waits for seconds of sound before it begins; so the samples are played as they come.
const hear = async (mine, address) => {
  const sound = mine.sound = { abort: new AbortController(), gain: mine.output.createGain(), seconds: 0, untilS: 0, begun: false, isWhole: false };
  sound.gain.connect(mine.output.destination);
  try {
    const reply = await fetch(`${address}?format=pcm`, { signal: sound.abort.signal });
    if (reply.status === 503) complain(await reply.text()); // an answer without a word has no sound, and that is no fault
    if (!reply.ok) return;
    const reader = reply.body.getReader();
    let rest = new Uint8Array(0);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const bytes = new Uint8Array(rest.length + value.length);
      bytes.set(rest); bytes.set(value, rest.length);
      const whole = bytes.length - (bytes.length % 2);
      rest = bytes.slice(whole);
      if (whole) play(mine, sound, new Int16Array(bytes.buffer.slice(0, whole)));
    }
  } catch (error) { if (error.name !== "AbortError") complain("The sound of the answer broke off. The answer itself is whole."); }
  finally { sound.isWhole = true; }
};
const play = (mine, sound, samples) => {
  if (mine.sound !== sound) return;
  const buffer = mine.output.createBuffer(1, samples.length, PCM_RATE);
  buffer.copyToChannel(Float32Array.from(samples, (value) => value / 32768), 0);
  const source = mine.output.createBufferSource();
  source.buffer = buffer;
  source.connect(sound.gain);
  const fromS = Math.max(mine.output.currentTime + START_S, sound.untilS);
  source.start(fromS);
  sound.untilS = fromS + buffer.duration;
  sound.seconds += buffer.duration;
  if (!sound.begun) { sound.begun = true; showTalk(mine, "answering"); }
};
const setLoudness = (mine, loudness) => { mine.sound?.gain.gain.setTargetAtTime(loudness, mine.output.currentTime, FADE_S); };
const silence = (mine) => {
  const { sound } = mine;
  if (!sound) return;
  noteHeard(mine, Number(isSounding(mine) ? moment(mine) : sound.seconds));
  mine.sound = null;
  sound.abort.abort(); // the server stops, too
  sound.gain.disconnect();
};
const noteHeard = (mine, seconds) => { mine.heardS = seconds; mine.heardUntilMs = performance.now() + ECHO_MS; };
const endSound = (mine) => { // once all of it was heard
  if (!mine.sound?.isWhole || isSounding(mine)) return;
  if (mine.sound.begun) noteHeard(mine, mine.sound.seconds);
  mine.sound = null;
  showTalk(mine, busy ? "thinking" : "listening");
};

// what is shown, and the end

const showTalk = (mine, phase, told) => {
  if (talk !== mine) return;
  mine.phase = phase;
  const shown = mine.isMuted && ["listening", "hearing"].includes(phase) ? "muted" : phase;
  talkBar.hidden = false;
  talkBar.dataset.phase = shown;
  form.classList.add("talking");
  $(".talk-state").textContent = told || TALK_PHASES[shown];
};
const mute = () => {
  if (!talk) return;
  talk.isMuted = !talk.isMuted;
  talk.stream?.getTracks().forEach((track) => { track.enabled = !talk.isMuted; });
  talk.blocks = [];
  talkBar.style.setProperty("--level", "0");
  muteButton.setAttribute("aria-pressed", String(talk.isMuted));
  muteButton.title = talk.isMuted ? "Let the microphone hear again" : "Mute the microphone";
  announce(talk.isMuted ? "Muted" : "Listening");
  showTalk(talk, talk.phase);
};
const endTalk = (mine) => {
  if (!mine || talk !== mine) return;
  talk = null;
  mine.stream?.getTracks().forEach((track) => track.stop());
  silence(mine);
  mine.context?.close();
  mine.output.close();
  if (mine.address) fetch(mine.address, { method: "DELETE", keepalive: true }).catch(() => {});
  const hadFocus = talkBar.contains(document.activeElement);
  talkBar.hidden = true;
  form.classList.remove("talking");
  caption.textContent = "";
  muteButton.setAttribute("aria-pressed", "false");
  announce("The conversation has ended.");
  if (hadFocus) home();
};

for (const [node, name] of [[talkButton, "talk"], [muteButton, "muted"]]) { node.append(icon(name)); node.title = node.getAttribute("aria-label"); }
talkButton.addEventListener("click", () => { startTalk(); muteButton.focus({ preventScroll: true }); });
muteButton.addEventListener("click", mute);
$(".end-talk").addEventListener("click", () => endTalk(talk));
whenLeaving.push(() => { // not where it was begun before the page knew which chat is open
  if (talk?.draft === early) talk.draft = null; else endTalk(talk);
});
whenEscaping.push(() => {
  if (!talk) return false;
  if (busy || isSounding(talk)) interrupt(talk); else endTalk(talk);
  return true;
});
addEventListener("pagehide", () => endTalk(talk));
