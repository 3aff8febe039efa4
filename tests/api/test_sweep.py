import json
import math
import sqlite3

import pytest

import initio
from families import Functional, Residual, brittle, deadly, deaf, mlp, needs
from initio.core.errors import InitioError
from initio.rules.rows import without_rows
from initio.sweeps import compare, load


def here(factory, grid, inputs=(4, 32), **settings):
    return initio.sweep(factory, grid, inputs, workers=0, **{"findings": False, **settings})


def test_numbers_of_a_cell_are_those_of_the_analysis():
    found = here(mlp, {"depth": [6], "gain": [1.3]}, findings=True)
    with without_rows():  # a map is that of infinite width
        analysis = initio.analyze(lambda: mlp(6, 1.3), (4, 32))
        rms = [analysis.modules[str(2 * k)].rms for k in range(6)]
        grad = [analysis.modules[str(2 * k)].grad_rms for k in range(6)]
        codes = sorted({f.code for f in initio.check(lambda: mlp(6, 1.3), (4, 32)).findings})
    finite = initio.analyze(lambda: mlp(6, 1.3), (4, 32)).modules["10"].rms
    cell = found.cells[0].quantities
    assert cell["layers"] == 6
    assert cell["signal"] == pytest.approx(rms[-1] / rms[0], rel=1e-12)
    assert cell["gradient_growth"] == pytest.approx((grad[0] / grad[-1]) ** (1 / 5), rel=1e-12)
    assert cell["findings"] == codes
    assert finite == pytest.approx(rms[-1], rel=0.02)
    assert finite != pytest.approx(rms[-1], rel=1e-4)


def test_findings_of_a_dying_signal_and_their_selection():
    found = here(mlp, {"depth": [40], "gain": [0.4]}, findings=True, select=["SIG"])
    codes = found.cells[0].quantities["findings"]
    assert codes
    assert all(code.startswith("SIG") for code in codes)
    assert found.cells[0].quantities["warnings"] + found.cells[0].quantities["errors"] >= 1
    assert codes[0] in str(found)


def test_layers_without_modules_and_residual_blocks_have_a_course():
    functional = here(Functional, {"depth": [12], "gain": [0.9]}).cells[0].quantities
    modules = here(mlp, {"depth": [12], "gain": [0.9], "bias": [0.0]}).cells[0].quantities
    assert functional["layers"] == 12
    assert functional["chi"] == pytest.approx(modules["chi"], rel=1e-3)
    residual = here(Residual, {"depth": [12], "gain": [1.0], "scale": [0.5]}).cells[0].quantities
    assert residual["layers"] == 12
    assert residual["forward_growth"] > 1


def test_workers_give_what_this_process_gives(tmp_path):
    grid = {"depth": (3, 5), "gain": "0.5:2:3"}
    apart = initio.sweep(mlp, grid, (4, 32), workers=2, store=tmp_path / "s.sqlite", findings=False)
    both = compare(apart, here(mlp, grid))
    assert len(both.rows) == 6
    assert not both.differing
    assert max(both.largest.values()) == 0.0
    assert apart.computed == 6
    assert load(tmp_path / "s.sqlite").rows() == apart.rows()
    again = initio.sweep(mlp, grid, (4, 32), workers=2, store=tmp_path / "s.sqlite", findings=False)
    assert again.computed == 0
    assert again.rows() == apart.rows()


def test_a_failing_cell_is_kept_with_its_reason_and_the_others_go_on(tmp_path):
    found = here(brittle, {"gain": [1.0, 3.0, 1.5]}, store=tmp_path / "s.sqlite")
    assert [bool(cell.failed) for cell in found] == [False, True, False]
    assert "no model with gain 3.0" in found.failed[0].failed
    assert "families.py" in found.failed[0].failed
    assert here(brittle, {"gain": [1.0, 3.0, 1.5]}, store=tmp_path / "s.sqlite").computed == 0
    assert here(brittle, {"gain": [1.0, 3.0, 1.5]}, store=tmp_path / "s.sqlite", retry_failed=True).computed == 1
    assert math.isnan(found.values("chi")[1])


def test_a_model_that_cannot_take_the_input_fails_with_the_line():
    found = here(mlp, {"width": [32, 16]})
    assert [bool(cell.failed) for cell in found] == [False, True]
    assert "to run on this input" in found.failed[0].failed
    assert not here(mlp, {"width": [32, 16]}, "4x{width}").failed


def test_a_cell_that_ends_its_process_fails_alone():
    found = initio.sweep(deadly, {"depth": (2, 3, 4, 5)}, (4, 32), workers=2, findings=False)
    assert [cell.parameters["depth"] for cell in found.failed] == [3]
    assert "ended" in found.failed[0].failed
    assert len(found) == 4


def test_an_interrupt_returns_what_is_finished_and_the_next_call_goes_on(tmp_path):
    store, seen = tmp_path / "s.sqlite", []

    def stop(done, failed, total):
        seen.append((done, failed, total))
        if done == 2:
            raise KeyboardInterrupt

    grid = {"depth": (2, 3, 4, 5)}
    first = here(mlp, grid, store=store, progress=stop)
    assert first.interrupted
    assert len(first) == 2
    assert first.missing == 2
    assert seen[-1] == (2, 0, 4)
    second = here(mlp, grid, store=store)
    assert not second.interrupted
    assert second.computed == 2
    assert [cell.index for cell in second] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [{"grid": {"depth": (2, 9)}}, {"factory": brittle}, {"inputs": (5, 32)}, {"measure": 1}, {"loss": "mse"}, {"fixed": {"bias": 1.0}}],
)
def test_a_store_of_another_sweep_is_refused(change, tmp_path):
    store = tmp_path / "s.sqlite"
    here(mlp, {"depth": (2,)}, store=store)
    settings = {"factory": mlp, "grid": {"depth": (2,)}, "inputs": (4, 32)} | change
    with pytest.raises(InitioError, match="a store of the same sweep"):
        here(settings.pop("factory"), settings.pop("grid"), settings.pop("inputs"), store=store, **settings)
    assert len(load(store)) == 1


def test_a_store_of_another_version_and_what_is_none(tmp_path):
    store = tmp_path / "s.sqlite"
    here(mlp, {"depth": (2,)}, store=store)
    with sqlite3.connect(store) as connection:
        about = json.loads(connection.execute("SELECT value FROM meta").fetchone()[0])
        connection.execute("UPDATE meta SET value = ?", (json.dumps(about | {"version": "0.0.1"}),))
    connection.close()
    with pytest.raises(InitioError, match="Initio of another version"):
        here(mlp, {"depth": (2,)}, store=store)
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for attempt in (lambda: here(mlp, {"depth": (2,)}, store=store), lambda: load(store)):
        with pytest.raises(InitioError, match="version 99"):
            attempt()
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    for path in (other, text):
        with pytest.raises(InitioError, match="a store of a sweep"):
            here(mlp, {"depth": (2,)}, store=path)
    with pytest.raises(InitioError, match="does not exist"):
        load(tmp_path / "nowhere.sqlite")


def test_two_sweeps_never_write_one_store(tmp_path):
    store = tmp_path / "s.sqlite"

    def second(done, failed, total):
        with pytest.raises(InitioError, match="another process"):
            here(mlp, {"depth": (2,)}, store=store)
        assert len(load(store)) == done

    assert len(here(mlp, {"depth": (2,)}, store=store, progress=second)) == 1


def test_ignored_and_lacking_parameters():
    found = here(deaf, {"depth": (2, 3), "gain": (0.5, 2.0)})
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("gain never changes")
    assert not here(mlp, {"depth": (2, 3), "gain": (0.5, 2.0)}).remarks
    with pytest.raises(InitioError, match="bogus"):
        here(mlp, {"bogus": (1, 2)})
    with pytest.raises(InitioError, match="depth"):
        here(needs, {"gain": (1, 2)})


def test_factories_that_cannot_travel_and_things_that_are_none():
    with pytest.raises(InitioError, match="workers=0"):
        initio.sweep(lambda depth: mlp(depth), {"depth": (2, 3)}, (4, 32), workers=2)
    assert len(here(lambda depth: mlp(depth), {"depth": (2, 3)})) == 2
    with pytest.raises(InitioError, match="a class or factory"):
        here(mlp(), {"depth": (2, 3)})
    for settings in ({"measure": -1}, {"train_steps": -1}, {"learning_rate": 0.0}):
        with pytest.raises(InitioError):
            here(mlp, {"depth": (2,)}, **settings)


def test_measured_beside_predicted_and_a_short_training():
    found = here(mlp, {"depth": (8,), "gain": (0.7, 1.1), "width": (128,)}, (16, 128), measure=4, train_steps=30)
    for cell in found:
        q = cell.quantities
        assert q["measured_forward_growth"] == pytest.approx(q["forward_growth"], rel=0.03)
        assert q["measured_gradient_growth"] == pytest.approx(q["gradient_growth"], rel=0.03)
        assert q["final_loss"] < q["first_loss"]
        assert not q["diverged"]
    wild = here(mlp, {"depth": (4,), "gain": (1.0,), "act": ("relu",)}, train_steps=20, learning_rate=50.0)
    assert wild.cells[0].quantities["diverged"]


def test_training_is_the_same_each_time():
    settings = {"grid": {"depth": (3,), "drop": (0.1,)}, "train_steps": 5}
    one, other = (here(mlp, settings["grid"], train_steps=5).cells[0].quantities for _ in range(2))
    assert one["final_loss"] == other["final_loss"]


def test_tables_of_pandas_and_polars():
    found = here(mlp, {"depth": (2, 3), "gain": (0.5, 1.0)})
    pandas = pytest.importorskip("pandas", reason="pandas reads the table")
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.depth) == [2, 2, 3, 3]
    assert frame.chi.notna().all()
    polars = pytest.importorskip("polars", reason="polars reads the table")
    assert isinstance(found.to_polars(), polars.DataFrame)
    assert found.to_polars()["chi"].to_list() == list(frame.chi)


def test_two_sweeps_compared():
    one, other = here(mlp, {"gain": (0.5, 1.0, 2.0)}), here(brittle, {"gain": (1.0, 2.0, 3.0)})
    both = compare(one, other)
    assert len(both.rows) == 2
    assert (both.only_a, both.only_b) == (1, 1)
    assert not both.differing
    changed = compare(one, here(mlp, {"gain": (0.5, 1.0, 2.0)}, fixed={"bias": 1.0}), tolerance=1e-3)
    assert len(changed.differing) == 3
    assert changed.largest["chi"] > 1e-3
    assert "3 differ" in str(changed)
    with pytest.raises(InitioError, match="same parameters"):
        compare(one, here(mlp, {"depth": (2,)}))
