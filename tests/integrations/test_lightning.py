"""The callback inside of a real Lightning Trainer; without Lightning these tests are skipped."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install 'initio[lightning]'")

from initio.core.errors import InitioError  # noqa: E402
from initio.integrations.first_step import FindingsError, InitioWarning  # noqa: E402
from initio.integrations.lightning import InitioCallback  # noqa: E402


class Lit(lightning.LightningModule):
    def __init__(self, net, whole=True):
        super().__init__()
        self.net, self.whole = net, whole
        self.loss = nn.CrossEntropyLoss()
        self.steps = 0

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        x, y = batch
        self.steps += 1
        loss = self.loss(self(x) if self.whole else self.net(x), y)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def net():
    return nn.Sequential(nn.Linear(8, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))


class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8)]
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.layers[0](x)))


def fit(module, *callbacks, **options):
    data = torch.utils.data.TensorDataset(torch.randn(32, 8), torch.randint(3, (32,)))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), num_sanity_val_steps=1, **options,
    )  # fmt: skip
    trainer.fit(module, loader, loader)


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*dataloader.*", "ignore:.*num_workers.*")
@pytest.mark.parametrize(("whole", "target"), [(True, "Lit"), (False, "Lit.net")])
def test_a_sound_module_trains_as_without_and_what_the_step_called_was_checked(whole, target):
    ended = []
    for callbacks in ((), (InitioCallback(),)):
        lightning.seed_everything(0)
        module = Lit(net(), whole)
        with warnings.catch_warnings():
            warnings.simplefilter("error", InitioWarning)
            fit(module, *callbacks)
        ended.append(module.state_dict())
    assert all(torch.equal(value, ended[1][name]) for name, value in ended[0].items())
    (report,) = callbacks[0].reports
    assert report.target == target
    assert report.findings == ()
    assert hooks(module) == 0
    assert module.steps == 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_error_stops_before_the_first_step(accumulate):
    module = Lit(Bad())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(FindingsError, match="REG101"):
        fit(module, InitioCallback(), accumulate_grad_batches=accumulate)
    assert hooks(module) == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_never_warns_and_trains_on():
    module = Lit(Bad())
    with pytest.warns(InitioWarning, match="REG101"):
        fit(module, InitioCallback(fail_on="never"))
    assert module.steps == 3


def test_codes_are_chosen_and_arguments_checked():
    callback = InitioCallback(ignore=["REG101"])
    fit(Lit(Bad()), callback)
    assert "REG101" not in {finding.code for report in callback.reports for finding in report.findings}
    with pytest.raises(InitioError, match="one of error, warning, note, never"):
        InitioCallback(fail_on="always")
