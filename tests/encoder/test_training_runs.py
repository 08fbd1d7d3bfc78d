"""What every kind of training owes its run folder and its output: one toy run of each, of two or three steps."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import encoder.training.distill as distillation
import encoder.training.mlm as mlm
import encoder.training.retrieval as retrieval
from encoder.checkpoints.folder import read_json
from encoder.errors import ArgumentError, CheckpointError, CorpusError
from encoder.training import loop
from encoder.training.classify import train_classifier
from encoder.training.configs import ClassifyConfig, DistillConfig, MlmConfig, RetrievalConfig
from encoder.training.distill import distill
from encoder.training.interrupts import Interrupts
from encoder.training.loop import Pace, TrainingRun, adamw, claim_run, digests, load_moments
from encoder.training.mlm import open_model, train_mlm
from encoder.training.optimiser import stable_adamw
from encoder.training.retrieval import train_retrieval
from tests.helpers.checkpoints import WORDS, bert, modernbert, pylate
from tests.helpers.toy_language import save_tokenizer, text


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pylate(folder / "pylate", query_length=16, document_length=32)
    bert(folder / "bert")
    modernbert(folder / "modernbert")
    save_tokenizer(folder / "tokenizer.json")
    shape = MlmConfig(
        tokenizer=str(folder / "tokenizer.json"),
        hidden_size=32,
        intermediate_size=32,
        layers=2,
        heads=2,
        length=64,
    )
    mlm.save_heads(folder / "classifier", *open_model(shape), {})
    return folder


@pytest.fixture
def data(tmp_path):
    """One file that every kind of training reads."""
    rows = [
        {"query": WORDS[6 + i % 16], "pos": " ".join(WORDS[6 + i % 9 :]), "text": text(i, 20), "label": i % 2}
        for i in range(40)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_mlm(models, data, out, run, steps=2, lr=1e-3, **changes):
    values = {
        "tokenizer": str(models / "tokenizer.json"),
        "hidden_size": 32,
        "intermediate_size": 32,
        "layers": 2,
        "heads": 2,
        "save_every": 100,
        "length": 32,
        "batch_size": 2,
    }
    config = MlmConfig(**{**values, "steps": steps, "lr": lr, "warmup": 1, **changes})
    return train_mlm([(data, 1.0)], out, run, config)


def run_classify(models, data, out, run, steps=2, lr=1e-3):
    config = ClassifyConfig(
        str(models / "classifier"),
        epochs=steps / 20,
        batch_size=2,
        lr=lr,
        length=32,
        eval_every=1,
        save_every=100,
    )
    return train_classifier(data, data, out, run, config)


def run_retrieval(models, data, out, run, steps=2, lr=1e-3, **changes):
    values = {"model": str(models / "pylate"), "batch_size": 2, "query_length": 8, "document_lengths": (16,)}
    config = RetrievalConfig(
        **{**values, "steps": steps, "lr": lr, "embedding_lr": lr, "warmup": 1, "save_every": 100, **changes}
    )
    return train_retrieval([(data, 1.0)], out, run, config)


def run_distill(models, data, out, run, steps=2, lr=1e-3, teacher="bert"):
    values = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "layers": 1,
        "heads": 2,
        "dim": 8,
        "batch_tokens": 64,
        "half": False,
        "save_every": 100,
    }
    config = DistillConfig(
        str(models / teacher), **values, chunk_lengths=(16,), steps=steps, lr=lr, embedding_lr=lr, warmup=1
    )
    return distill([(data, 1.0)], out, run, config)


KINDS = {"mlm": run_mlm, "classify": run_classify, "retrieval": run_retrieval, "distill": run_distill}
every_kind = pytest.mark.parametrize("train", KINDS.values(), ids=KINDS)


def weights(out):
    return {str(p.relative_to(out)): load_file(p) for p in sorted(out.rglob("*.safetensors"))}


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(value, b[file][key]) for file, part in a.items() for key, value in part.items())


@pytest.mark.slow
@every_kind
def test_a_run_whose_data_changed_is_refused(train, models, data, tmp_path):
    train(models, data, tmp_path / "out", tmp_path / "run")
    data.write_text(data.read_text().replace("oak", "elm").replace("w1 ", "w2 "))
    with pytest.raises(ArgumentError, match=r"run holds a run on other data \(data\.jsonl.* changed since\)"):
        train(models, data, tmp_path / "out", tmp_path / "run", steps=2)


@pytest.mark.slow
@every_kind
def test_a_run_that_is_done_says_so(train, models, data, tmp_path, capsys):
    first = train(models, data, tmp_path / "out", tmp_path / "run")
    before = weights(tmp_path / "out")
    capsys.readouterr()
    again = train(models, data, tmp_path / "again", tmp_path / "run")
    assert f"{tmp_path / 'run'} is at step 2 of 2 asked: nothing was left to do" in capsys.readouterr().out
    assert same(weights(tmp_path / "again"), before)
    assert {k: v for k, v in again.items() if "before" in k} == {
        k: v for k, v in first.items() if "before" in k
    }


@pytest.mark.slow
@every_kind
def test_a_damaged_run_folder_is_one_line(train, models, data, tmp_path):
    run = tmp_path / "run"
    train(models, data, tmp_path / "out", run)
    state, settings = run / "state.safetensors", run / "settings.json"
    whole = state.read_bytes(), settings.read_text()

    def refused(message):
        with pytest.raises(CheckpointError, match=message) as refusal:
            train(models, data, tmp_path / "again", run)
        assert "pass another run folder, or delete this one" in str(refusal.value)
        assert "\n" not in str(refusal.value)

    for n in (0, 5, len(whole[0]) - 10):
        state.write_bytes(whole[0][:n])
        refused(r"state\.safetensors cannot be read")
    state.write_bytes(whole[0])
    settings.write_text(whole[1][:-9])
    refused(r"settings\.json cannot be read")
    settings.unlink()
    refused(r"settings\.json is missing beside the state of a run")
    assert not list((tmp_path / "again").iterdir())


@pytest.mark.slow
@every_kind
def test_weights_that_are_not_finite_after_the_last_step_are_no_model(train, models, data, tmp_path):
    with pytest.raises((ArgumentError, CheckpointError), match="finite"):
        train(models, data, tmp_path / "out", tmp_path / "run", steps=1, lr=1e39)
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "run" / "state.safetensors").exists()


@every_kind
def test_an_output_that_cannot_be_written_is_said_before_the_first_step(train, models, data, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="is a file, or lies under one"):
        train(models, data, tmp_path / "file" / "out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@every_kind
def test_an_output_behind_a_link_to_nowhere_is_made(train, models, data, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "far" / "model")
    train(models, data, tmp_path / "out", tmp_path / "run")
    assert (tmp_path / "far" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@every_kind
def test_paths_stay_when_the_process_goes_elsewhere(train, models, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = TrainingRun.log

    def goes(self, **values):
        os.chdir("/")
        log(self, **values)

    monkeypatch.setattr(TrainingRun, "log", goes)
    train(models, data.relative_to(tmp_path), "out", "run", steps=30)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "state.safetensors").is_file()


@pytest.mark.slow
@every_kind
def test_ctrl_c_ends_the_step_saves_and_goes_on_to_the_bit(train, models, data, tmp_path, monkeypatch):
    train(models, data, tmp_path / "whole", tmp_path / "run1", steps=4)
    rate = TrainingRun.set_rate

    def interrupted(self, factor):
        rate(self, factor)
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "set_rate", interrupted)
        with pytest.raises(KeyboardInterrupt) as stop:
            train(models, data, tmp_path / "out", tmp_path / "run2", steps=4)
    # The command line prints it.
    assert str(stop.value) == f"step 2 is kept in {tmp_path / 'run2'}; the same command goes on from there"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not list((tmp_path / "out").iterdir())
    train(models, data, tmp_path / "out", tmp_path / "run2", steps=4)
    assert same(weights(tmp_path / "out"), weights(tmp_path / "whole"))


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation_does_not_wait_for_its_end(models, data, tmp_path):
    def evaluation(checkpoint):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("never here")

    config = RetrievalConfig(
        model=str(models / "pylate"), batch_size=2, document_lengths=(16,), steps=9, eval_every=3
    )
    with pytest.raises(KeyboardInterrupt, match="step 3 is kept"):
        train_retrieval([(data, 1.0)], tmp_path / "out", tmp_path / "run", config, evaluate=evaluation)


@pytest.mark.slow
@every_kind
def test_tokens_a_second_are_printed_and_logged(train, models, data, tmp_path, monkeypatch, capsys):
    for module in (mlm, retrieval, distillation):
        monkeypatch.setattr(module, "REPORT_EVERY", 1)
    train(models, data, tmp_path / "out", tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    speeds = [line["tokens_per_second"] for line in log if "tokens_per_second" in line]
    assert len(speeds) == 2
    assert min(speeds) > 0
    assert f"{speeds[-1]:,} tokens/s" in capsys.readouterr().out


def test_pace_is_tokens_by_the_time_that_was_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])
    pace = Pace()
    pace.tokens += 600
    now[0] += 2
    with pace.paused():
        now[0] += 50
    now[0] += 1
    assert pace.taken() == 200
    pace.tokens += 30
    now[0] += 3
    assert pace.taken() == 10


@pytest.mark.slow
@every_kind
def test_a_step_that_does_not_fit_is_one_line(train, models, data, tmp_path, monkeypatch):
    def full(*given, **named):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(torch.Tensor, "backward", full)
    with pytest.raises(
        ArgumentError,
        match=r"^a step does not fit the memory of the GPU \(CUDA out of memory\); pass smaller",
    ):
        train(models, data, tmp_path / "out", tmp_path / "run")


@pytest.mark.parametrize(
    "make", [lambda m: adamw(m, lr=0.1, embedding_lr=0.1), lambda m: stable_adamw(m, lr=0.1, weight_decay=0)]
)
def test_moments_come_back_to_where_the_optimiser_wants_them(make, tmp_path):
    """torch's fused one counts steps on the device; ours where it costs no wait."""
    model = torch.nn.Linear(2, 2)
    run = TrainingRun(tmp_path, model, make(model))
    model(torch.ones(1, 2)).sum().backward()
    run.optimiser.step()
    tensors = run._tensors()
    there = torch.nn.Linear(2, 2, device="meta")
    optimiser = make(there)
    load_moments(tensors, there, optimiser)
    for parameter in there.parameters():
        state = optimiser.state[parameter]
        assert (state["exp_avg"].device.type, state["exp_avg_sq"].device.type) == ("meta", "meta")
        assert state["step"].device.type == ("meta" if optimiser.defaults.get("fused") else "cpu")


def test_signals_are_noted_once_and_left_alone_where_they_are_ignored():
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # torchrun's, of the same key
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.caught == signal.SIGINT
        interrupts.since -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and `&` leave it
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
        assert interrupts.caught is None
    finally:
        signal.signal(signal.SIGINT, before)
    entered = []
    thread = threading.Thread(target=lambda: entered.append(Interrupts().__enter__()))
    thread.start()
    thread.join()
    assert entered


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_real_signal_to_the_command(number, code, models, data, tmp_path):
    arguments = [
        "train", "mlm", data, "--tokenizer", models / "tokenizer.json", "--size", "tiny", "--hidden-size", 32,
        "--heads", 2, "--layers", 2, "--length", 32, "--batch-size", 2, "--steps", 1_000_000, "--out", tmp_path / "out",
        "--run", tmp_path / "run",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "retriever.cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = tmp_path / "run" / "log.jsonl"
    for _ in range(1200):
        if (log.exists() and log.read_text().count("\n") > 30) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    steps = json.loads(log.read_text().splitlines()[-1])["step"]
    kept = f"interrupted; step {steps} is kept in {tmp_path / 'run'}; the same command goes on from there\n"
    assert kept in errors
    assert errors.count("interrupted") == 1
    assert "Traceback" not in errors
    assert process.returncode == code
    assert (tmp_path / "run" / "state.safetensors").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_state_without_its_numbers_is_one_line(models, data, tmp_path):
    run_mlm(models, data, tmp_path / "out", tmp_path / "run")
    state = tmp_path / "run" / "state.safetensors"
    torch_state = load_file(state)
    from safetensors.torch import save_file

    save_file(torch_state, state)
    with pytest.raises(CheckpointError, match=r"state\.safetensors is no state of a run"):
        run_mlm(models, data, tmp_path / "out", tmp_path / "run", steps=3)


@pytest.mark.slow
def test_a_run_that_failed_before_its_first_save_may_be_begun_again(models, data, tmp_path):
    with pytest.raises(ArgumentError, match="need examples with scores"):
        run_retrieval(models, data, tmp_path / "out", tmp_path / "run", kl_weight=1.0)
    run_retrieval(models, data, tmp_path / "out", tmp_path / "run")
    assert read_json(tmp_path / "run" / "settings.json")["kl_weight"] == 0.0


@pytest.mark.slow
def test_what_is_made_once_a_run_holds_its_settings_too(models, data, tmp_path, monkeypatch):
    def stops(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("encoder.training.distill.token_cosine_loss", stops)
        with pytest.raises(KeyboardInterrupt):
            run_distill(models, data, tmp_path / "out", tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"lr=0\.001, now 0\.5"):
        run_distill(models, data, tmp_path / "out", tmp_path / "run", lr=0.5)


def test_settings_may_differ_in_length_and_in_what_is_saved_alone(tmp_path, data):
    run, config, sources = tmp_path / "run", RetrievalConfig(lr=1.0, document_lengths=(16, 32)), [(data, 1.0)]
    claim_run(run, config, sources)
    (run / "state.safetensors").touch()
    claim_run(run, replace(config, steps=9, save_every=7, half=True), sources)
    kept = read_json(run / "settings.json")
    assert kept["steps"] == 9
    assert RetrievalConfig(**{k: v for k, v in kept.items() if k not in ("sources", "data")}) == replace(
        config, steps=9, save_every=7, half=True
    )
    for other in (sources, []):
        with pytest.raises(ArgumentError, match=r"lr=1\.0, now 2\.0"):
            claim_run(run, replace(config, lr=2.0), other)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.jsonl").write_text("a")
    first = digests([tmp_path / "folder", data])
    (tmp_path / "folder" / "train.jsonl").write_text("b")
    second = digests([tmp_path / "folder", data])
    assert first[0] != second[0]
    assert first[1] == second[1]


@pytest.mark.parametrize(("n", "size", "message"), [
    (0, 2, "holds no examples"),
    (1, 2, "holds 1 examples, 0 without those held out, and a batch has 2; pass more examples"),
    (3, 2, "holds 3 examples, 1 without those held out, and a batch has 2; pass more examples"),
    (5, 4, "holds 5 examples, 3 without those held out, and a batch has 4; pass batch_size <= 3, or more examples"),
])  # fmt: skip
def test_too_few_examples_are_refused_with_their_number(n, size, message, models, data, tmp_path):
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:n]))
    with pytest.raises(CorpusError, match=message):
        run_retrieval(models, data, tmp_path / "out", tmp_path / "run", batch_size=size)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "size"), [(4, 2), (5, 3), (5, 2), (11, 9)])
def test_few_examples_train_and_have_a_held_out_loss(n, size, models, data, tmp_path):
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:n]))
    result = run_retrieval(models, data, tmp_path / "out", tmp_path / "run", batch_size=size)
    assert math.isfinite(result["held_out_loss_before"])
    assert math.isfinite(result["held_out_loss"])


@pytest.mark.slow
def test_one_long_text_is_trained_on(models, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text(0, 500)}))
    result = run_mlm(models, tmp_path / "one.jsonl", tmp_path / "out", tmp_path / "run", steps=25)
    assert math.isnan(result["held_out_loss"])  # nothing was held out
    assert (tmp_path / "out" / "model.safetensors").is_file()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0]


def test_texts_without_a_token_are_no_text(models, tmp_path):
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n' * 300)
    with pytest.raises(CorpusError, match=r"no text in .*blank\.jsonl"):
        run_mlm(models, tmp_path / "blank.jsonl", tmp_path / "out", tmp_path / "run")


@pytest.mark.slow
def test_too_little_text_to_distill_is_one_line(models, tmp_path):
    path = tmp_path / "few.jsonl"
    for content, message in (
        ("", r"no text in .*few\.jsonl"),
        ('{"text": "oak"}\n', "gives one chunk of text"),
    ):
        path.write_text(content)
        with pytest.raises(CorpusError, match=message):
            run_distill(models, path, tmp_path / "out", tmp_path / f"run{len(content)}")


@pytest.mark.slow
def test_a_modernbert_is_a_teacher(models, data, tmp_path):
    result = run_distill(models, data, tmp_path / "out", tmp_path / "run", teacher="modernbert")
    assert math.isfinite(result["held_out_cosine"])


@pytest.mark.slow
def test_the_bundled_model_goes_on_by_its_name():
    model, tokenizer = open_model(MlmConfig(model="bundled"))
    assert model.config.hidden_size == 256
    assert tokenizer.before
    with pytest.raises(CheckpointError, match="is no folder and no hub name"):
        open_model(MlmConfig(model="no-such-model"))
