"""vLLM and transformers give every question the same score in float32, whatever a tokenizer's decoder does with spaces.

The checkpoint is tiny and random and the answers are short and greedy, so what is compared is how prompts are made and
read and how answers are scored. Where two choices, or two next tokens, are as likely as each other up to rounding, the
engines may differ; such questions are counted apart.
"""

from __future__ import annotations

import json

import pytest
import yaml
from tiny_checkpoint import make_checkpoint

from evals import runner, sandbox
from evals.engines.vllm_server import VllmEngine, installed_vllm
from evals.suites import load_suite
from harness.errors import MoemixError
from harness.requests import EvalJobRequest

try:
    installed_vllm()
except MoemixError as error:
    pytest.skip(error.message, allow_module_level=True)

pytestmark = [pytest.mark.serve, pytest.mark.data]

QUESTIONS = 50
LIMITS = {"mmlu": 1, "bbh": 2, "bbh_cot": 2}  # of each of its 57 or 27 tasks
GREEDY = {"do_sample": False, "temperature": 0.0, "max_gen_toks": 16}
TIE = 1e-3  # nats: what rounding in float32 may change
FORM = ("mmlu", "bbh", "gsm8k", "mbpp", "arc_e", "arc_c", "boolq")
COLUMNS = [(suite, column) for suite in ("paper_kr", "chat_kr") for column in FORM]
COLUMNS += [("paper_extended", "humaneval"), *(("extended", name) for name in ("humaneval", "ifeval", "bbh_cot"))]
CODE = ("mbpp", "humaneval")
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}<assistant>"


def llama_tokenizer(texts):
    """One that puts a space before a text, and drops it again when it decodes, as LLaMA's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<|endoftext|>", "<unk>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=special, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def served(request, real_data, tmp_path_factory):
    """A checkpoint with a tokenizer of this style, and vLLM serving it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    texts = (real_data / "gsm8k" / "train.jsonl").read_text().splitlines()[:1000]
    checkpoint = make_checkpoint(folder / "checkpoint", context=8192, texts=texts, vocabulary=2000)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint) if request.param == "gpt2" else llama_tokenizer(texts)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(checkpoint)
    with VllmEngine(checkpoint, dtype="float32", seed=0, folder=folder) as engine:
        yield checkpoint, engine


class Borrowed:
    """The module's server, for an evaluation that would start and stop one."""

    def __init__(self, engine):
        self.engine = engine

    def __enter__(self):
        return self.engine

    def __exit__(self, *_):
        return None


def shortened(suite, name, folder):
    """A suite file with some questions of one column, and short greedy answers."""
    shipped = load_suite(suite)
    (column,) = (column for column in shipped.columns if column.name == name)
    changes = {"limit": LIMITS.get(name, QUESTIONS), "samples": None, "generation": column.generation | GREEDY}
    tree = {"name": suite, "chat_template": shipped.chat_template}
    tree["columns"] = [column.model_copy(update=changes).model_dump(mode="json")]
    file = folder / f"{suite}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file, column


def asked(out, tasks, answer_filter):
    """Task and question → the sample."""
    samples = ((task, json.loads(line)) for task in tasks for line in (out / f"samples_{task}.jsonl").open())
    return {(task, sample["doc_id"]): sample for task, sample in samples if sample["filter"] == answer_filter}


def tied(one, other, checkpoint):
    """Whether two engines' samples differ only by rounding: in which of two choices, or of two next tokens."""
    if isinstance(one["resps"][0][0], str):
        texts = [sample["resps"][0][0] for sample in (one, other)]
        common = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        return (
            texts[0] != texts[1] and gap(checkpoint, one["arguments"]["gen_args_0"]["arg_0"] + texts[0][:common]) < TIE
        )
    values = [float(reply[0][0]) for reply in one["resps"]]
    lengths = [len(arguments["arg_1"]) for arguments in one["arguments"].values()]
    each = (values, [value / length for value, length in zip(values, lengths, strict=True)])
    return any(sorted(choices)[-1] - sorted(choices)[-2] < TIE for choices in each)


def gap(checkpoint, text):
    """How much more likely the best next token is than the second, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(**AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt")).logits[0, -1]
    best, second = torch.topk(torch.log_softmax(logits, -1), 2).values.tolist()
    return best - second


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("suite", "column"), COLUMNS, ids=[f"{suite}-{column}" for suite, column in COLUMNS])
def test_every_question_gets_the_same_score_from_both(suite, column, served, real_data, tmp_path, monkeypatch):
    if column in CODE and sandbox.available():
        pytest.skip(sandbox.available())
    if column == "ifeval":
        pytest.importorskip("langdetect")
    checkpoint, engine = served
    file, wanted = shortened(suite, column, tmp_path)
    found = {}
    for spec in ("transformers", "vllm"):
        config = runner.request_for(str(file), tasks=(), limit=None, engine=spec, dtype="float32", seed=0)
        out = tmp_path / spec
        job = EvalJobRequest(config=config, checkpoint=checkpoint, out=out, data_root=real_data, keep_answers=False)
        with monkeypatch.context() as patch:
            if spec == "vllm":
                patch.setattr(runner, "open_engine", lambda *_, **__: Borrowed(engine))
            summary = runner.evaluate(job)
        found[spec] = asked(out, summary.columns[column].tasks, wanted.filter)
    ours, theirs = found.values()
    assert ours.keys() == theirs.keys()
    assert len(ours) >= QUESTIONS
    differing = [key for key in ours if ours[key][wanted.metric] != theirs[key][wanted.metric]]
    untied = [key for key in differing if not tied(ours[key], theirs[key], checkpoint)]
    right = sum(float(sample[wanted.metric]) for sample in ours.values())
    replies = [[str(side[key]["resps"][0][0]) for side in (ours, theirs)] for key in ours]
    same, but_spaces = (sum(cut(one) == cut(other) for one, other in replies) for cut in (str, str.lstrip))
    print(
        f"\n{suite} {column}: {len(ours) - len(differing)} of {len(ours)} agree, {right:.0f} right, {same} same"
        f" replies, {but_spaces} but for spaces that begin them"
    )
    assert not untied
    assert len(differing) <= 1
