"""A language model that `transformers serve` runs, an OpenAI-compatible server by others, behind undrift.

The model is a Llama of two layers and eighteen words that learns within seconds which words are angry. The server gives
no log-probabilities, so a class is the text it says.
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.heavy.behind import Project, answers, ended, free_port, until

ENVIRONMENT = Path(__file__).parents[2] / ".venv-transformers"  # made by scripts/heavy
GOOD, BAD = ("thanks", "great", "helpful"), ("broken", "useless", "refund")
TONES = {**dict.fromkeys(GOOD, "calm"), **dict.fromkeys(BAD, "angry")}
LEARN = """
import sys
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
good, bad = sys.argv[2].split(","), sys.argv[3].split(",")
words = ["[pad]", "[end]", "[ask]", "[say]", "calm", "angry", "my", "order", "is", "was", *good, *bad, "maybe", "[unk]"]
raw = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[unk]"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[unk]", pad_token="[pad]", eos_token="[end]")
tokenizer.chat_template = (
    "{% for m in messages %}{% if m.role == 'user' %}[ask] {{ m.content }} {% endif %}{% endfor %}[say]"
)
small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=64, eos_token_id=1, pad_token_id=0,
                                     bos_token_id=2, tie_word_embeddings=False, **small))
lessons = [("calm", word) for word in good] + [("angry", word) for word in bad] + [("maybe", "order")]
told = [f"[ask] my order {verb} {word} [say] {tone} [end]" for verb in ("is", "was") for tone, word in lessons]
ids = torch.tensor([tokenizer(text)["input_ids"] for text in told])
labels = ids.where(torch.arange(ids.shape[1]) >= ids.shape[1] - 2, -100)
by = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(200):
    loss = model(input_ids=ids, labels=labels).loss
    by.zero_grad()
    loss.backward()
    by.step()
assert loss.item() < 0.05, loss
model.generation_config.eos_token_id = 1
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""
DECLARED = """
url = "http://127.0.0.1:{port}"
protocol = "openai"
model = "{model}"
task = "binary"
classes = ["calm", "angry"]
system = "You judge the tone of messages to a help desk. Answer with one word: calm or angry."
prompt = "{{message}}"
max_tokens = 4
read_seconds = 60.0
inputs = [{{ name = "message", type = "string" }}]
"""


@pytest.fixture
def language_model(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of the server, and the model's folder, which is its name there."""
    folder, port = tmp_path / "tone-lm", free_port()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""}
    learn = [ENVIRONMENT / "bin/python", "-c", LEARN, folder, ",".join(GOOD), ",".join(BAD)]
    subprocess.run(learn, env=env, check=True, capture_output=True, text=True)
    with (tmp_path / "served").open("wb") as log:
        command = [ENVIRONMENT / "bin/transformers", "serve", "--device", "cpu", "--host", "127.0.0.1"]
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT
        )
    until(lambda: answers(f"http://127.0.0.1:{port}/health") or server.poll() is not None, "ready")
    assert server.poll() is None, (tmp_path / "served").read_text()[-2000:]
    yield port, folder
    ended(server)


def test_a_language_model_classifies_behind_undrift(language_model: tuple[int, Path], tmp_path: Path) -> None:
    port, model = language_model
    (tmp_path / "tone.toml").write_text(DECLARED.format(port=port, model=model))
    said = {
        f"my order {verb} {word}": "calm" if word in GOOD else "angry" for verb in ("is", "was") for word in GOOD + BAD
    }
    with (tmp_path / "messages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("message", "tone"), *list(said.items()) * 4])
    project = Project(tmp_path / "tone")
    told = project.undrift("adopt", "../tone.toml", "--example", "../messages.csv", "--label", "tone")
    assert "another server runs it" in told
    project.undrift("apply")
    project.undrift("promote", "--why", "the help desk asks it already")
    project.serve()
    try:
        status, answer = project.predict([{"message": message} for message in said])
        assert status == 200, answer
        assert [found["label"] for found in answer["predictions"]] == list(said.values())
        assert [found["score"] for found in answer["predictions"]] == [float(tone == "angry") for tone in said.values()]
        project.undrift("work", "--once")
        assert "tone" in project.undrift("why", answer["rows"][0]["id"])  # captured, and told
        # what it said is the operator's to see, not the caller's
        status, answer = project.predict([{"message": "my order is order"}])
        assert status == 500, answer
        assert "'maybe', which is none of calm, angry" in (tmp_path / "log").read_text()
        calls = {key: value for key, value in project.metrics().items() if "undrift_upstream_calls_total" in key}
        assert sum(value for key, value in calls.items() if 'outcome="ok"' in key) >= len(said)
    finally:
        ended(project.server)
