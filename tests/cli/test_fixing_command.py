"""`initio fix` as a user meets it: what is written, what is refused, and what stays as it was."""

import os
import subprocess
import tempfile
import textwrap

import pytest
import torch

from initio.api.fixing import fix
from initio.api.targets import resolve
from initio.cli import status

DROPOUT = """
import torch.nn.functional as F
from torch import nn

INPUT = "8x16"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 16)  # in
        self.b = nn.Linear(16, 2)

    def forward(self, x):
        return self.b(F.dropout(self.a(x).relu(), 0.1))
"""
FIXED = DROPOUT.replace("0.1)", "0.1, training=self.training)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory; another one holds temporary files, of which none may stay."""
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield work
    assert not [name for name in os.listdir(temporary) if name.startswith("initio")]


def write(folder, text, name="net.py"):
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return file


def git(*command):
    options = ["-c", "user.name=n", "-c", "user.email=e@x.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *options, *command], check=True, capture_output=True)


def test_a_diff_is_printed_and_nothing_written(folder, capsys):
    file = write(folder, DROPOUT)
    assert status(["fix", "net.py:Net", "--diff"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("--- net.py\n+++ net.py\n@@ ")
    assert "\n+        return self.b(F.dropout(self.a(x).relu(), 0.1, training=self.training))\n" in out
    assert file.read_text() == DROPOUT
    assert os.listdir(folder) == ["net.py"]


def test_a_fix_is_written_once(folder, capsys):
    file = write(folder, DROPOUT)
    file.chmod(0o750)
    assert status(["fix", "net.py:Net"]) == 0
    assert "fixed MOD101 net.py:15: Pass training=self.training" in capsys.readouterr().out
    assert file.read_text() == FIXED
    assert file.stat().st_mode & 0o777 == 0o750
    assert os.listdir(folder) == ["net.py"]
    assert status(["fix", "net.py:Net", "--diff"]) == 0
    assert status(["fix", "net.py:Net"]) == 0
    assert "nothing to fix" in capsys.readouterr().out


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_line_endings_and_encoding_are_kept(folder, mark):
    def written(text):
        return mark + text.replace("# in", "# größer").rstrip("\n").encode().replace(b"\n", b"\r\n")

    file = folder / "net.py"
    file.write_bytes(written(DROPOUT.replace("F.dropout", "F.dropout").lstrip("\n")))
    assert status(["fix", "net.py:Net"]) == 0
    assert file.read_bytes() == written(FIXED.lstrip("\n"))


def test_new_imports_have_the_line_endings_of_the_file(folder):
    source = """
    from torch import nn

    INPUT = "8x16"


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(16, 2)

        def forward(self, x):
            return nn.ReLU(self.a(x))
    """
    file = folder / "net.py"
    file.write_bytes(textwrap.dedent(source).replace("\n", "\r\n").encode())
    assert status(["fix", "net.py:Net"]) == 0
    fixed = file.read_bytes()
    assert b"import torch.nn.functional as F\r\n" in fixed
    assert fixed.count(b"\n") == fixed.count(b"\r\n")


def test_uncommitted_changes_are_not_overwritten(folder, capsys):
    git("init", "-q")
    file = write(folder, DROPOUT)
    assert status(["fix", "net.py:Net"]) == 2
    assert "not committed" in capsys.readouterr().err.replace("\n", " ")
    git("add", "net.py")
    git("commit", "-q", "-m", "one")
    file.write_text(DROPOUT + "# more\n")
    assert status(["fix", "net.py:Net"]) == 2
    assert status(["fix", "net.py:Net", "--diff"]) == 1
    assert file.read_text() == DROPOUT + "# more\n"
    write(folder, "x = 1\n", "other.py")
    assert status(["fix", "net.py:Net", "--force"]) == 0
    assert file.read_text() == FIXED + "# more\n"


def test_a_committed_file_beside_a_dirty_one_is_fixed(folder):
    git("init", "-q")
    file = write(folder, DROPOUT)
    git("add", "net.py")
    git("commit", "-q", "-m", "one")
    write(folder, "x = 1\n", "other.py")
    assert status(["fix", "net.py:Net"]) == 0
    assert file.read_text() == FIXED


PACKAGE = {
    "__init__.py": "",
    "blocks.py": """
    import torch
    from torch import nn


    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.linspace(0, 1, 16)

            class Inner(nn.Module):
                '''Nested.'''

                def __init__(self):
                    super().__init__()
                    self.layers = [nn.Linear(16, 16) for _ in range(2)]

                def forward(self, x):
                    for layer in self.layers:
                        x = layer(x).tanh()
                    return x

            self.inner = Inner()

        def forward(self, x):
            return self.inner(x + self.shift)
    """,
    "net.py": """
    import torch.nn.functional as F
    from torch import nn

    from .blocks import Block

    INPUT = "8x16"


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = {"one": Block(), "two": Block()}
            self.head = nn.Linear(16, 2)

        def forward(self, x):
            for block in self.blocks.values():
                x = F.dropout(block(x), 0.1)
            return self.head(x)
    """,
}


@pytest.fixture
def package(folder, monkeypatch):
    (folder / "fixme").mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return [write(folder, text, f"fixme/{name}") for name, text in PACKAGE.items()]


def test_several_fixes_in_several_files_of_a_package(folder, package):
    assert status(["fix", "fixme.net:Net", "--unsafe"]) == 0
    _, blocks, net = (file.read_text() for file in package)
    assert 'self.register_buffer("shift", torch.linspace(0, 1, 16), persistent=False)' in blocks
    assert "self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])" in blocks
    assert 'self.blocks = nn.ModuleDict({"one": Block(), "two": Block()})' in net
    assert "F.dropout(block(x), 0.1, training=self.training)" in net
    assert status(["fix", "fixme.net:Net", "--unsafe", "--diff"]) == 0


def test_a_file_of_a_package_that_imports_its_package(folder, package):
    net = package[2]
    net.write_text(
        net.read_text().replace("from .blocks", "from fixme.blocks") + "    CONFIG = (Path(__file__).parent / 'width.txt').read_text()\n"
    )
    net.write_text("from pathlib import Path\n" + net.read_text())
    (folder / "fixme" / "width.txt").write_text("16")
    assert status(["fix", "fixme/net.py:Net", "--unsafe"]) == 0
    assert "nn.ModuleList(" in package[1].read_text()
    assert "nn.ModuleDict(" in net.read_text()
    assert "initio-fix" not in "".join(file.read_text() for file in package)


def test_if_one_file_cannot_be_replaced_none_is(folder, package, monkeypatch, capsys):
    before = [file.read_text() for file in package]
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    assert status(["fix", "fixme.net:Net", "--unsafe"]) == 2
    assert "Permission denied" in capsys.readouterr().err.replace("\n", " ")
    assert len(calls) == 3
    assert [file.read_text() for file in package] == before
    assert sorted(file.name for file in (folder / "fixme").iterdir() if file.name != "__pycache__") == sorted(PACKAGE)


def test_a_file_that_changed_meanwhile_is_not_overwritten(folder):
    file = write(folder, DROPOUT)
    found = fix("net.py:Net")
    file.write_text(DROPOUT + "# mine\n")
    with pytest.raises(Exception, match="has changed meanwhile"):
        found.write()
    assert file.read_text() == DROPOUT + "# mine\n"


def test_unsafe_fixes_are_held_back(folder, capsys):
    text = """
    from torch import nn

    INPUT = "8x16"


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(16, 16)]

        def forward(self, x):
            return self.layers[0](x)
    """
    file = write(folder, text)
    assert status(["fix", "net.py:Net"]) == 0
    out = capsys.readouterr().out
    assert "held back REG101 net.py:10" in out
    assert "--unsafe" in out
    assert file.read_text() == textwrap.dedent(text)


UNPROVEN = {
    "a list that the model copies": (
        "self.layers = [nn.Linear(16, 16), nn.Linear(16, 16)]",
        "x = self.layers.copy()[0](self.layers[1](x))",
        "no attribute 'copy'",
    ),
    "keys that are no text": ("self.layers = {0: nn.Linear(16, 16)}", "x = self.layers[0](x)", "module name should be a string"),
    "outputs that change": (
        "self.shift = torch.linspace(0, 1, 16); self.a = nn.Linear(16, 16)",
        "x = self.a(x + self.shift) if 'shift' in self.__dict__ else self.a(x)",
        "outputs in evaluation mode are not the same",
    ),
    "a layer that is used otherwise too": (
        "self.a, self.b, self.norm = *(nn.Linear(16, 16) for _ in range(2)), nn.BatchNorm1d(16)",
        "x = self.b(self.norm(self.a(x)).relu())",
        "which is used otherwise",
    ),
    "what only the forward pass knows": (
        "self.a = nn.Linear(16, 16)",
        "x = nn.Linear(x.shape[1], 4)(self.a(x).relu())",
        "only the forward pass",
    ),
    "a computed option": (
        "self.a = nn.Linear(16, 16, bias=bool(1)); self.norm = nn.BatchNorm1d(16)",
        "x = self.norm(self.a(x))",
        "computes its bias",
    ),
}


@pytest.mark.parametrize("constructor, forward, reason", UNPROVEN.values(), ids=list(UNPROVEN))
def test_a_fix_without_proof_is_named_and_not_written(folder, capsys, constructor, forward, reason):
    text = f"""
    import torch
    from torch import nn

    INPUT = "8x16"


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            {constructor}

        def forward(self, x):
            {forward}
            return x
    """
    file = write(folder, text)
    assert status(["fix", "net.py:Net", "--unsafe"]) == 1
    out = capsys.readouterr().out
    assert "not fixed " in out
    assert reason in out
    assert file.read_text() == textwrap.dedent(text)


def test_a_proven_fix_is_written_beside_an_unproven_one(folder, capsys):
    text = DROPOUT.replace("self.b = nn.Linear(16, 2)", "self.b = {0: nn.Linear(16, 2)}").replace("self.b(", "self.b[0](")
    file = write(folder, text)
    assert status(["fix", "net.py:Net", "--unsafe"]) == 1
    assert "not fixed REG101" in capsys.readouterr().out
    assert file.read_text() == text.replace("0.1)", "0.1, training=self.training)")


NEAR_MISSES = {
    "registered, applied, in the mode": """
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.sizes = [1, 2]

    def forward(self, x):
        for layer in self.layers:
            x = nn.ReLU()(F.dropout(layer(x), 0.1, self.training))
        return x
    """,
    "silenced by a comment": """
        self.a = nn.Linear(16, 16)

    def forward(self, x):
        return F.dropout(self.a(x), 0.1)  # initio: ignore[MOD101]
    """,
    "meant to be random": """
        self.a = nn.Linear(16, 16)

    def forward(self, x):
        return F.dropout(self.a(x), 0.1, training=True)
    """,
    "a bias before a layer norm": """
        self.a, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)

    def forward(self, x):
        return self.norm(self.a(x).relu_())
    """,
}


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=list(NEAR_MISSES))
def test_near_misses_stay_as_they_are(folder, capsys, body):
    head = (
        "import torch.nn.functional as F\nfrom torch import nn\n\nINPUT = '8x16'\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()"
    )
    write(folder, head + body)
    assert status(["fix", "net.py:Net", "--unsafe", "--diff"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "nothing to fix" in told.err


@pytest.mark.parametrize(
    "target, said",
    [
        ("torchvision:resnet18", "of your own source"),
        ("initio.examples.residual:Model", "installed package"),
        ("nothing.py:Net", "does not exist"),
        ("broken.py:Net", "can be imported"),
        ("no_such_module:Net", "there is no module"),
    ],
)
def test_what_cannot_be_fixed_is_an_error(folder, capsys, target, said):
    write(folder, "class Net(:\n", "broken.py")
    assert status(["fix", target]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_a_model_that_hangs_is_given_up(folder, capsys):
    file = write(folder, DROPOUT.replace("super().__init__()", "super().__init__()\n        while True:\n            pass"))
    before = file.read_text()
    assert status(["fix", "net.py:Net", "--timeout", "1"]) == 2
    assert "--timeout" in capsys.readouterr().err
    assert file.read_text() == before


def test_a_report_says_that_there_are_edits(folder, capsys):
    write(folder, DROPOUT)
    assert status(["check", "net.py:Net"]) == 1
    assert "`initio fix net.py:Net --diff --unsafe` shows edits for 1 of these." in capsys.readouterr().out


def test_a_built_instance_and_a_factory_with_arguments(folder):
    file = write(folder, DROPOUT.replace('INPUT = "8x16"\n', "") + "\n\ndef make(scale):\n    return Net()\n\n\nbuilt = Net()\n")
    before = file.read_text()
    assert status(["fix", "net.py:built"]) == 2  # no input
    assert status(["fix", "net.py:built", "-i", "8x16", "--diff"]) == 1
    assert status(["fix", "net.py:make", "-i", "8x16", "--diff", "--arg", "scale=2"]) == 1
    assert file.read_text() == before
    assert status(["fix", "net.py:built", "-i", "8x16"]) == 0
    assert "training=self.training" in file.read_text()


def test_what_no_edit_mends_is_left_to_the_user(folder, capsys):
    write(
        folder, DROPOUT.replace("0.1)", "0.1, self.training)").replace("def forward(self, x):", "def forward(self, x):\n        x = x + x")
    )
    assert status(["fix", "net.py:Net", "--select", "RES102"]) == 0
    out = capsys.readouterr().out
    assert "by hand RES102 net.py:" in out
    assert "fixed" not in out


LITERAL = """
from torch import nn

INPUT = "4x64x6x6"


class Layer(nn.Module):
    '''Split, transform, merge, written out.'''

    def __init__(self):
        super().__init__()
        self.reduce = [nn.Conv2d(64, 2, 1) for _ in range(32)]
        self.transform = [nn.Conv2d(2, 2, 3) for _ in range(32)]  # 3×3
        self.expand = [nn.Conv2d(2, 64, 1) for _ in range(32)]

    def path(self, x, i):
        x = nn.ReLU(self.reduce[i](x))
        x = nn.ReLU(self.transform[i](x))
        return self.expand[i](x)

    def forward(self, x):
        y = ({sum})
        return nn.ReLU(y)
"""


def test_the_literal_split_transform_merge_layer_becomes_one_that_trains(folder):
    file = write(folder, LITERAL.format(sum=" + ".join(f"self.path(x, {i})" for i in range(32))))
    with pytest.raises(TypeError):
        resolve("net.py:Layer").build()(torch.randn(4, 64, 6, 6))
    assert list(resolve("net.py:Layer").build().parameters()) == []
    assert status(["fix", "net.py:Layer", "--unsafe"]) == 0
    fixed = file.read_text()
    assert fixed.count("F.relu(") == 3
    assert "self.transform = nn.ModuleList([nn.Conv2d(2, 2, 3, padding=1) for _ in range(32)])  # 3×3" in fixed
    torch.manual_seed(0)
    model = resolve("net.py:Layer").build()
    assert sum(p.numel() for p in model.parameters()) == 32 * (2 * 65 + 2 * 19 + 64 * 3)
    x, target = torch.randn(4, 64, 6, 6), torch.rand(4, 64, 6, 6)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert model(x).shape == x.shape
    assert losses[-1] < 0.8 * losses[0]
