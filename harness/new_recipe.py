"""Writing a commented recipe for someone's own data and model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from harness import stages
from harness.errors import MoemixError
from harness.files import write_text
from harness.recipe import TinyModel
from harness.sources import HUB_ID

_TINY = """  # A small MoE with random weights: minutes on a CPU. When all works, put your model here:
  # - {kind: checkpoint, name: model, source: allenai/OLMoE-1B-7B-0924}       # a folder or a hub id of an MoE
  # - {kind: upcycle, name: model, source: ORG/DENSE, experts: 4, top_k: 2}   # a dense model, made into an MoE
  - kind: tiny
    name: model
    architecture: mixtral
    config: {hidden_size: 64, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4,
             num_key_value_heads: 2, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 1024}
    tokenizer: {vocab_size: 512}"""
_SMALL = """training:
  steps: 30               # for your model: 500 to 2000
  batch_examples: 16      # examples of a global batch
  max_length: 512         # tokens; longer examples are cut
  learning_rate: 3.0e-3   # for a pretrained model: 2.0e-5"""
_LARGE = """training:
  steps: 500
  batch_examples: 64      # examples of a global batch
  max_length: 2048        # tokens; longer examples are cut
  learning_rate: 2.0e-5
  dtype: bfloat16
  gradient_checkpointing: true"""


def tiny_model() -> TinyModel:
    """Return the tiny model that a new recipe has."""
    return TinyModel.model_validate(yaml.safe_load(_TINY)[0])


def write_recipe(path: Path, sources: Sequence[str], model: str, suites: Sequence[str]) -> Iterator[str]:
    """Write the recipe, and yield what its author should know.

    Sources are local files or ids of hub data sets, the model is ``tiny``, a checkpoint's folder or a hub id.

    Raises:
        MoemixError: the file exists, there is no source, or a source has a format that no adapter reads.
    """
    if path.exists():
        raise MoemixError("the file exists already", where=str(path), hint="choose another name, or remove it")
    if path.suffix not in (".yaml", ".yml"):
        raise MoemixError("a recipe is a YAML file", where=str(path), hint=f"did you mean {path}.yaml?")
    if not sources:
        raise MoemixError("no data is named", hint="give --data FILE or --data ORGANISATION/NAME, once for each source")
    if model != "tiny" and not Path(model).is_dir() and not HUB_ID.fullmatch(model):
        hint = "expected tiny, a checkpoint's folder, or ORGANISATION/NAME"
        raise MoemixError("there is no such folder, and it is not a hub id", where=model, hint=hint)
    for suite in suites:
        stages.evaluation().check_suite(suite)
    name = re.sub(r"[^a-z0-9_.-]+", "-", path.stem.lower()).strip("-.") or "mine"
    taken = set[str]()
    rows = "\n".join(_source(given, taken) for given in sources)
    tiny = model == "tiny"
    models = _TINY if tiny else f"  - {{kind: checkpoint, name: model, source: {model}}}   # an MoE"
    strategies = "[uniform, datasize, dynamic]"
    text = f"""# `moemix plan {path}` checks it and shows what would run; `moemix bench {path}` runs it.
# Every key is in docs/recipes.md.
name: {name}
models:
{models}
data:
  sources:                # one row each; `parts` may join several files
{rows}
strategies: {strategies}   # `moemix strategies` lists them; yours: path/to/file.py:ClassName
seeds: [0]                # a verdict between strategies needs three: [0, 1, 2]
{_SMALL if tiny else _LARGE}
mixing: {{interval: {10 if tiny else 100}}}     # steps between two updates of the weights
evaluation: {{suites: [{", ".join(suites)}]}}   # `moemix suites`; held-out loss is measured without any
engine: {"transformers" if tiny else "vllm"}   # what answers in evaluations: transformers, vllm, or a URL
"""
    write_text(path, text)
    if len(sources) < 3:
        count = "two sources" if len(sources) == 2 else "one source"
        yield f"note: with {count}, `dynamic` cannot tell one from the others and stays at even weights"
    yield f"next: moemix plan {path}"


def _source(given: str, taken: set[str]) -> str:
    file = Path(given)
    if file.is_file():
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", file.name.partition(".")[0])
        place = f"adapter: {stages.training().find_adapter(file)}, files: [{str(file.resolve())!r}]"
    elif HUB_ID.fullmatch(given) and "/" in given:
        stem = given.rpartition("/")[2]
        place = f"adapter: messages, hub: {given}, revision: main"
    else:
        raise MoemixError(
            "there is no such file, and it is not a hub id", where=given, hint="expected ORGANISATION/NAME"
        )
    name = stem if stem not in taken else f"{stem}-{len(taken) + 1}"
    taken.add(name)
    return f"    - {{name: {name}, parts: [{{{place}}}], probe_examples: 20}}"
