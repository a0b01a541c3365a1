"""What a card of a GGUF model may say under `engine`."""

from __future__ import annotations

from pydantic import Field

from multimodal.backends.engine_options import EngineOptions


class LlamaCppOptions(EngineOptions):
    threads: int = Field(0, ge=0)
    """0: one for each physical core."""
    n_batch: int = Field(512, ge=1)
    """Tokens of a prompt that are read at once; a stop takes effect between two such batches."""
    prompt_cache_mib: int = Field(0, ge=-1)
    """Of host memory, for conversations whose slot went to somebody else; -1 for no limit."""
    gpu_layers: int = Field(999, ge=0)
    """Layers that lie on a graphics card, where there is one."""
    picture_tokens: int = Field(576, ge=1)
    """What one picture takes, to choose how many old turns are left out; of LLaVA 1.5 unless the
    card says."""
    after_picture: str = ""
    """What stands behind each picture, where the model was trained so."""
