"""The callback inside of a real Hugging Face Trainer; it needs accelerate, which transformers does not bring along."""

import os
import warnings

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="pip install 'initio[hf]'")
pytest.importorskip("accelerate", reason="transformers.Trainer needs it: pip install accelerate")

from initio.core.errors import InitioError  # noqa: E402
from initio.integrations.first_step import FindingsError, InitioWarning  # noqa: E402
from initio.integrations.transformers import InitioCallback  # noqa: E402


def model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


class Leaky(torch.nn.Module):
    """A list that registers nothing, behind the interface of a model with a loss."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(64, 16)
        self.layers = [torch.nn.Linear(16, 16)]
        self.head = torch.nn.Linear(16, 64)

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.head(torch.tanh(self.layers[0](self.embed(input_ids))))
        return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


def train(network, folder, *callbacks, steps=2, accumulate=1):
    ids = torch.randint(64, (16, 8), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in ids]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=accumulate, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    transformers.Trainer(network, arguments, train_dataset=data, callbacks=list(callbacks)).train()


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_sound_model_trains_as_without_the_callback(tmp_path, accumulate):
    callback, ended = InitioCallback(), []
    for callbacks in ((), (callback,)):
        network = model()
        with warnings.catch_warnings():
            warnings.simplefilter("error", InitioWarning)
            train(network, tmp_path, *callbacks, accumulate=accumulate)
        ended.append(network.state_dict())
    assert all(torch.equal(value, ended[1][name]) for name, value in ended[0].items())
    (report,) = callback.reports
    assert [finding for finding in report.findings if finding.severity != "note"] == []
    assert {each.name for each in report.analysis.record.inputs} >= {"input_ids", "labels"}
    assert hooks(network) == 0


def test_an_error_stops_before_the_first_step(tmp_path):
    network = Leaky()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(FindingsError, match="REG101"):
        train(network, tmp_path, InitioCallback())
    assert hooks(network) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_never_warns_and_trains_on(tmp_path):
    with pytest.warns(InitioWarning, match="REG101"):
        train(Leaky(), tmp_path, InitioCallback(fail_on="never"))


def test_bad_arguments():
    with pytest.raises(InitioError, match="one of error, warning, note, never"):
        InitioCallback(fail_on="")
