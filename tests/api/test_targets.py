import functools
import sys

import pytest
from torch import nn

from initio.api.targets import arguments, resolve
from initio.core.errors import InitioError

SOURCE = '''"""What this shows."""
from torch import nn

INPUT = "2x8"

class Net(nn.Module):
    def __init__(self, width, depth=2):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(8, width) for _ in range(depth)))
    class Inner(nn.Module):
        pass

def build():
    return nn.Linear(8, 8)

instance = nn.Linear(8, 8)
number = 3
class Other:
    pass
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model_file.py"
    path.write_text(SOURCE)
    return path


def test_a_class_a_factory_an_instance(file):
    target = resolve(f"{file}:Net", {"width": 8})
    assert isinstance(target.build, functools.partial)
    assert isinstance(target.build(), nn.Module)
    assert (target.inputs, target.about) == ("2x8", "What this shows.")
    assert isinstance(resolve(f"{file}:build").build(), nn.Linear)
    assert isinstance(resolve(f"{file}:instance").build, nn.Linear)
    assert resolve(f"{file}:Net.Inner").build.__name__ == "Inner"
    assert resolve("torch.nn:Identity").build is nn.Identity


@pytest.mark.parametrize(
    "name, kwargs, said",
    [
        ("Net", {}, r"--arg width=VALUE"),
        ("Net", {"width": 8, "wdith": 3}, "wdith"),
        ("Nett", {}, "It has Net, instance, build"),
        ("number", {}, "type int"),
        ("Other", {}, "Other"),
        ("instance", {"width": 8}, "instance"),
    ],
)
def test_wrong_names_and_arguments(file, name, kwargs, said):
    with pytest.raises(InitioError, match=said):
        resolve(f"{file}:{name}", kwargs)


@pytest.mark.parametrize(
    "text, said",
    [
        ("nowhere.py:Net", "does not exist"),
        ("nothing", "after a colon"),
        ("no_such_module:Net", "no module 'no_such_module'"),
        ("hf:no_such_type", "is none"),
        ("hf:nowhere/config.json", "config.json"),
    ],
)
def test_wrong_places(text, said):
    with pytest.raises(InitioError, match=said):
        resolve(text)


def test_a_file_without_a_name_lists_what_is_in_it(file):
    with pytest.raises(InitioError, match=r"model_file\.py:Net"):
        resolve(str(file))


@pytest.mark.parametrize(
    "body, said", [("import not_there_at_all", "not_there_at_all"), ("x = (", "SyntaxError"), ("1 / 0", "ZeroDivisionError")]
)
def test_a_file_that_does_not_import_names_its_line(tmp_path, body, said):
    path = tmp_path / "broken.py"
    path.write_text("\n" + body)
    before = list(sys.path)
    with pytest.raises(InitioError, match=said) as caught:
        resolve(f"{path}:Net")
    assert "broken.py:2" in str(caught.value)
    assert sys.path == before
    assert "initio_target_broken" not in sys.modules


def test_arguments_are_literals_or_text():
    assert arguments(["a=1", "b=x", "c=[1, 2]", "d=None", "e=a=b"]) == {"a": 1, "b": "x", "c": [1, 2], "d": None, "e": "a=b"}
    with pytest.raises(InitioError, match="name=value"):
        arguments(["width"])


def test_hugging_face_configurations(tmp_path):
    pytest.importorskip("transformers")
    target = resolve("hf:gpt2", {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 100, "n_positions": 16})
    assert target.inputs == {"input_ids": "2x16:int(100)"}
    assert type(target.build()).__name__ == "GPT2LMHeadModel"
    path = tmp_path / "config.json"
    path.write_text(
        '{"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, '
        '"intermediate_size": 32, "image_size": 32}'
    )
    target = resolve(f"hf:{path}")
    assert target.inputs == {"pixel_values": "2x3x32x32"}
    assert type(target.build()).__name__ == "ViTForImageClassification"
    for text, said in (("{", "JSON"), ('{"model_type": "x"}', "model_type")):
        path.write_text(text)
        with pytest.raises(InitioError, match=said):
            resolve(f"hf:{path}")


def test_vision_zoos():
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    assert resolve("torchvision:resnet18").inputs == "8x3x224x224"
    assert resolve("torchvision:inception_v3").inputs == "8x3x299x299"
    assert resolve("timm:resnet10t").inputs.startswith("8x3x")
    for text in ("torchvision:resnet19", "timm:resnet19"):
        with pytest.raises(InitioError, match="Near it"):
            resolve(text)
