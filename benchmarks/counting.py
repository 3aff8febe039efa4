"""What counters answer for a ResNet-50 and a Llama-7B, and how long they take.

    python benchmarks/counting.py [--rounds 5] [--layers 32] [--clock cpu] [--threads 1]

Needs torchvision and transformers, and the counters to compare with: torchinfo, fvcore, ptflops, calflops (those that are not installed
are left out). ResNet-50 is built with its weights; a Llama-7B (27 GB of them) is built on the `meta` device for all. The counters take
turns, round after round, each in a process of its own; a figure is the minimum over the rounds. "counting" is given the built model and
counts the forward pass, as the others do; "from the class" includes the building. An answer is right within .5 % of the truth.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402

import initio  # noqa: E402

Answer = tuple[float, int]
CLOCK = time.perf_counter
LLAMA_LINEAR = 4 * 4096**2 + 3 * 4096 * 11008


@dataclass
class Task:
    name: str
    build: Callable[[], Any]
    spec: Any
    inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    macs: float
    parameters: int
    device: str = "cpu"


@dataclass
class Result:
    answer: Answer | None = None
    error: str = ""
    alone: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def resnet() -> Task:
    import torchvision

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (torch.randn(1, 3, 224, 224),), {}

    return Task("ResNet-50, 1×3×224×224", torchvision.models.resnet50, "1x3x224x224", inputs, 4_089_184_256, 25_557_032)


def llama(layers: int) -> Task:
    import transformers

    config = transformers.LlamaConfig(use_cache=False, num_hidden_layers=layers)

    def build() -> Any:
        with torch.device("meta"):
            return transformers.LlamaForCausalLM(config)

    def inputs() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"input_ids": torch.zeros(1, 512, dtype=torch.int64, device="meta")}

    linear = layers * LLAMA_LINEAR + 32000 * 4096
    macs = 512 * linear + layers * 2 * 512**2 * 4096
    parameters = linear + 32000 * 4096 + (2 * layers + 1) * 4096
    return Task(f"Llama-7B ({layers} layers), 1×512 tokens", build, {"input_ids": "1x512:int(32000)"}, inputs, macs, parameters, "meta")


def by_initio(task: Task, model: Any) -> Answer:
    counts = initio.count(model, task.spec, backward=False, train=False)
    return counts.macs, counts.parameters.total


def by_torchinfo(task: Task, model: Any) -> Answer:
    import torchinfo

    args, kwargs = task.inputs()
    found = torchinfo.summary(model, input_data=kwargs or args, device=task.device, verbose=0)
    return found.total_mult_adds, found.total_params


def by_fvcore(task: Task, model: Any) -> Answer:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    args, kwargs = task.inputs()
    counted = FlopCountAnalysis(model, args or tuple(kwargs.values()))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return counted.total(), parameter_count(model)[""]


def by_ptflops(task: Task, model: Any) -> Answer:
    from ptflops import get_model_complexity_info

    args, kwargs = task.inputs()
    shape = tuple((args[0] if args else kwargs["input_ids"]).shape[1:])
    made = {"input_constructor": (lambda _: kwargs)} if kwargs else {}
    macs, parameters = get_model_complexity_info(model, shape, as_strings=False, print_per_layer_stat=False, verbose=False, **made)
    return macs, parameters


def by_calflops(task: Task, model: Any) -> Answer:
    from calflops import calculate_flops

    args, kwargs = task.inputs()
    given: dict[str, Any] = {"kwargs": kwargs} if kwargs else {"args": list(args)}
    _, macs, parameters = calculate_flops(model, **given, print_results=False, output_as_string=False)
    return macs, parameters


COUNTERS: dict[str, Callable[[Task, Any], Answer]] = {
    "initio": by_initio, "torchinfo": by_torchinfo, "fvcore": by_fvcore, "ptflops": by_ptflops, "calflops": by_calflops,
}  # fmt: skip


def once(counter: Callable[[Task, Any], Answer], task: Task, whole: bool) -> tuple[Answer, float]:
    """The answer, and the seconds that it took."""
    ours = counter is by_initio
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        begin = CLOCK()
        model = task.build if ours and whole else task.build().eval()
        if not whole:
            begin = CLOCK()
        with contextlib.nullcontext() if ours else torch.no_grad():
            answer = counter(task, model)
        seconds = CLOCK() - begin
    if not answer[0]:
        raise ValueError("no answer (its output says why)")
    return answer, seconds


def isolated(name: str, task: Task, result: Result) -> None:
    """One round in a process of its own, since some counters patch torch and leave it so; a first pass imports and is not timed."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            once(COUNTERS[name], task, False)
            (answer, alone), (_, whole) = (once(COUNTERS[name], task, whole) for whole in (False, True))
            writer.send((answer, alone, whole))
        except BaseException as error:
            writer.send(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        os._exit(0)
    found = reader.recv()
    os.waitpid(child, 0)
    if isinstance(found, str):
        result.error = found
    else:
        result.answer = found[0]
        result.alone.append(found[1])
        result.whole.append(found[2])


def run(task: Task, rounds: int) -> None:
    results = {name: Result() for name in COUNTERS if name == "initio" or _installed(name)}
    for _ in range(rounds):
        for name, result in results.items():
            if not result.error:
                isolated(name, task, result)
    own = results["initio"]
    print(f"\n### {task.name}: {task.macs / 1e9:,.3f} GMAC, {task.parameters:,} parameters\n")
    print("| counter | GMAC | parameters | verdict | counting | ratio | from the class | ratio |")
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    for name, result in results.items():
        label = f"{name} {initio.__version__ if name == 'initio' else importlib.metadata.version(name)}"
        if result.error:
            print(f"| {label} | – | – | raises {result.error[:90].replace('|', '/')} | – | – | – | – |")
            continue
        macs, parameters = result.answer or (0, 0)
        wrong = [word for word, off in (("MACs", abs(macs / task.macs - 1) > 0.005), ("parameters", parameters != task.parameters)) if off]
        times = [min(result.alone), min(own.alone), min(result.whole), min(own.whole)]
        cells = f"{times[0]:.3f} s | {times[0] / times[1]:.2f} | {times[2]:.3f} s | {times[2] / times[3]:.2f}"
        print(f"| {label} | {macs / 1e9:,.3f} | {parameters:,} | {'wrong ' + ', '.join(wrong) if wrong else 'right'} | {cells} |")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=32, help="of the Llama")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a shared machine")
    options = parser.parse_args()
    if options.clock == "cpu":
        global CLOCK
        CLOCK = time.process_time
    torch.set_num_threads(options.threads)
    how = f"{options.threads} threads, {options.clock} time, minimum of {options.rounds} rounds"
    print(f"torch {torch.__version__}, {how}; ratios are to initio's time.")
    run(resnet(), options.rounds)
    run(llama(options.layers), options.rounds)


if __name__ == "__main__":
    main()
