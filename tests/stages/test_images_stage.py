"""Images on the whole road: trained in the same loop, completed, drawn, evaluated, probed, shown in the report."""

import io
import json
import math
import re
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sequences import SMALL, write_mnist, write_pets

import firstlight
from firstlight.cli.app import run as command
from firstlight.corpus.image_ops import center_crop_resize
from firstlight.errors import ConfigError, MissingExtra, UsageError
from firstlight.lm import LM, GenerateSettings
from firstlight.runs import RunDirectory
from firstlight.stages import images
from firstlight.stages.convert import export, import_
from firstlight.stages.sequence_samples import generate_images
from firstlight.stages.verify_resume import verify_resume
from firstlight.store import TokenStore
from firstlight.tokenizer import PixelCodec, TokenizerSettings, train
from firstlight.types import Document

Image = pytest.importorskip("PIL.Image")


pytestmark = pytest.mark.usefixtures("torch_as_it_was")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_mnist(folder, name="t10k", seed=1)
    firstlight.pretrain([str(write_mnist(folder))], out=folder / "run", overrides=[*SMALL, "train.steps=40"])
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_row_is_an_image_and_the_block_has_its_pixels(made: Path):
    run = made / "run"
    store = TokenStore.open(run / "data")
    pixels = LM.load_fp32(run).codec
    assert isinstance(pixels, PixelCodec)
    assert (pixels.size, pixels.levels, pixels.classes) == (6, 16, ("0", "1", "2"))
    assert (store.sequence_length, store.vocab_size, store.eot_id) == (37, 20, -1)
    assert store.tokenizer_hash == pixels.hash
    checkpoint = run / "checkpoints" / (run / "latest").read_text(encoding="utf-8").strip()
    assert read(checkpoint / "pixels.json") == read(run / "tokenizer" / "pixels.json")
    config = read(checkpoint / "config.json")
    assert (config["max_position_embeddings"], config["eos_token_id"]) == (36, None)


def test_bits_per_dimension_stand_beside_baselines_that_are_recomputed_here(made: Path):
    run = made / "run"
    evaluation, store = read(run / "evaluation.json"), TokenStore.open(run / "data")
    train, valid = (split.tokens.reshape(-1, 37)[:, 1:] for split in (store.train, store.valid))
    assert evaluation["valid"]["n_tokens"] == valid.size
    bits = {name: table["bits_per_dim"] for name, table in evaluation["baselines"].items()}
    assert bits["uniform"] == pytest.approx(4)
    nats = 0.0
    for place in range(36):
        share = (np.bincount(train[:, place], minlength=16) + 1) / (len(train) + 16)
        nats -= np.log(share[valid[:, place]]).sum()
    assert bits["position"] == pytest.approx(nats / math.log(2) / valid.size)
    assert evaluation["valid"]["bits_per_dim"] < bits["unigram"] < 4
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert "bits_per_dim" in lines
    assert "bits_per_byte" not in lines


def test_the_report_shows_pictures(made: Path):
    page = (made / "run" / "report.html").read_text(encoding="utf-8")
    assert "img-src data:;" in page
    found = [b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert found == [(made / "run" / name).read_bytes() for name in ("completions.png", "samples.png")]
    assert all(min(Image.open(io.BytesIO(data)).size) > 60 for data in found)
    for words in ("bits per dimension", "position", "16 grey levels", "6 × 6 pixels", "firstlight probe"):
        assert words in page
    assert "bits per byte" not in page


def test_a_completion_keeps_what_was_given(made: Path, tmp_path: Path):
    image = np.arange(0, 252, 7, dtype=np.uint8).reshape(6, 6)
    Image.fromarray(image).save(tmp_path / "a.png")
    lm = firstlight.load(made / "run", device="cpu")
    found = images.complete_images(
        lm, tmp_path / "a.png", out=tmp_path / "g.png", num_samples=3, seed=1, class_name="2", grid=True
    )
    assert (found.images, found.rows) == (3, [str(tmp_path / "a.png")])
    pixels = lm.codec
    given = pixels.encode(image)[:18].tolist()
    for ids in found.ids:
        assert len(ids) == 37
        assert ids[0] == pixels.class_id("2")
        assert ids[1:19] == given
        assert max(ids[1:]) < pixels.n_values
    assert (
        images.complete_images(
            lm, tmp_path / "a.png", out=tmp_path / "h.png", num_samples=3, seed=1, class_name="2", grid=True
        ).ids
        == found.ids
    )
    grid = np.asarray(Image.open(tmp_path / "g.png"))
    side = 6 * round(64 / 6) + 2
    assert grid.shape == (side + 2, 5 * side + 2, 3)
    shown = pixels.decode(pixels.encode(image)[None])[0]
    last = grid[2:side, 4 * side + 2 : 5 * side][5::11, 5::11]
    assert np.array_equal(last, shown)
    first = grid[2:side, 2:side][5::11, 5::11]
    assert np.array_equal(first[:3], shown[:3])
    assert (first[3:] == images.MASKED_COLOR).all()
    whole = images.complete_images(
        lm, made / "t10k-images-idx3-ubyte.gz", out=tmp_path / "g.png", num_samples=1, keep=0.9, overwrite=True
    )
    assert whole.images == 16
    assert [file.name for file in whole.files] == [f"g-{i}.png" for i in range(1, 17)]


@pytest.mark.parametrize("shape", [(3, 6), (18, 36), (2, 6)])
def test_half_a_picture_becomes_a_picture(
    made: Path, tmp_path: Path, shape: tuple[int, int], capsys: pytest.CaptureFixture[str]
):
    rows = 2 if shape == (2, 6) else 3
    lines = np.repeat(np.linspace(0, 250, rows).astype(np.uint8), shape[0] // rows)
    Image.fromarray(np.tile(lines[:, None], (1, shape[1]))).save(tmp_path / "half.png")
    words = ["generate", str(made / "run"), "--image", str(tmp_path / "half.png"), "--seed", "2"]
    assert command([*words, "--out", str(tmp_path / "whole.png")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'whole.png'}\n"
    assert f"the upper {rows} of 6 rows; {6 - rows} are generated" in said.err
    loss = RunDirectory(made / "run").validation_loss(40)
    assert f"{made / 'run'}: best and latest checkpoint, step 40, validation loss {loss:.4f}" in said.err
    whole = np.asarray(Image.open(tmp_path / "whole.png"))
    assert whole.shape == (6, 6, 3)
    assert np.abs(whole[:rows, :, 0].astype(int) - np.linspace(0, 250, rows)[:, None]).max() < 10, "16 grey levels"
    # What was generated, given again as a whole picture, is continued alike.
    again = ["generate", str(made / "run"), "--image", str(tmp_path / "whole.png"), "--seed", "2"]
    assert command([*again, "--rows", str(rows), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert command([*words, "--num-samples", "2", "--out", str(tmp_path / "two.png")]) == 0
    assert {p.name for p in tmp_path.glob("two*")} == {"two-1.png", "two-2.png"}
    assert command([*words, "--num-samples", "2", "--grid", "--out", str(tmp_path / "grid.png"), "--json"]) == 0
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (grid.shape[1] - 2) // (grid.shape[0] - 2) == 3, (
        "the given part and two completions: the original is not known"
    )
    capsys.readouterr()
    for bad in (["--rows", "6"], ["--rows", "3", "--keep", "0.5"], ["--num-samples", "2", "--out", "-"]):
        assert command([*words, *bad]) == 2, bad
        assert len(capsys.readouterr().err.strip().splitlines()) <= 3


def test_a_photo_is_cropped_as_in_training(made: Path, tmp_path: Path):
    photo = np.random.default_rng(0).integers(0, 255, (30, 40), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    lm = firstlight.load(made / "run", device="cpu")
    found = images.complete_images(lm, tmp_path / "photo.png", out=tmp_path / "done.png")
    codec = lm.codec
    assert isinstance(codec, PixelCodec)
    wanted = codec.encode(center_crop_resize(photo, 6))[:18]
    assert found.ids[0][1:19] == wanted.tolist()


def test_an_existing_file_is_not_replaced_unasked(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    readme = tmp_path / "README.md"
    readme.write_text("mine")
    words = ["generate", str(made / "run"), "--num-samples", "1", "--out", str(readme)]
    assert command(words) == 2
    assert "README.md: already exists" in capsys.readouterr().err
    assert readme.read_text() == "mine"
    assert command([*words, "--overwrite"]) == 0
    assert readme.read_bytes().startswith(b"\x89PNG")


def test_standard_output_gets_the_image_and_nothing_else(made: Path, capfdbinary: pytest.CaptureFixture[bytes]):
    assert command(["generate", str(made / "run"), "--num-samples", "1", "--class", "1", "--out", "-"]) == 0
    image = capfdbinary.readouterr().out
    assert image.startswith(b"\x89PNG") and image.endswith(b"IEND\xaeB\x60\x82")


def test_it_draws_each_class(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["generate", str(made / "run"), "--num-samples", "2", "--out", str(tmp_path / "g.png")]
    assert command([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["images"]) == (["0", "1", "2"], 6)
    assert command([*words, "--class", "1", "--overwrite"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'g.png'}: 2 images\n"
    for bad in (
        ["--class", "7"],
        ["--ids", "1"],
        ["text"],
        ["--image", "nothere.png"],
        ["--image", "x", "--keep", "1"],
        ["--keep", "0.3"],
        ["--max-new-tokens", "5"],
        ["--stop", "a"],
    ):
        assert command([*words, "--overwrite", *bad]) == 2, bad
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_drawing_a_row_at_a_time_is_drawing_all_at_once(made: Path):
    lm = LM.load_fp32(made / "run")
    settings = GenerateSettings(temperature=0)
    together = generate_images(lm, lm.codec, [17, 18, 19], settings)
    assert np.array_equal(together[1:2], generate_images(lm, lm.codec, [18], settings))
    given = together[:, 1:31]
    assert np.array_equal(generate_images(lm, lm.codec, [17, 18, 19], settings, given), together)


def test_held_out_images_are_evaluated(made: Path, capsys: pytest.CaptureFixture[str]):
    run = str(made / "run")
    own = firstlight.evaluate(run).texts[0]
    evaluation = read(made / "run" / "evaluation.json")
    assert own.n_tokens == evaluation["valid"]["n_tokens"]
    assert command(["evaluate", run, "--text", str(made / "t10k-images-idx3-ubyte.gz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["texts"][0]
    assert (found["n_tokens"], set(found["baselines"])) == (80 * 36, {"uniform", "unigram", "position"})
    assert found["interval"][0] < found["model"]["loss"] < found["interval"][1]
    best = LM.load_fp32(made / "run")
    rows = torch.from_numpy(TokenStore.open(made / "run" / "data").valid.tokens.reshape(-1, 37).astype(np.int64))
    wanted = best.model.token_nll(rows[:, :-1], rows[:, 1:]).double().mean()
    assert own.model.loss == pytest.approx(float(wanted))


@pytest.mark.slow
def test_layers_are_probed_beside_raw_pixels(made: Path, capsys: pytest.CaptureFixture[str]):
    found = firstlight.probe(made / "run", device="cpu")
    assert [s.layer for s in found.layers] == [0, 1, 2]
    assert found.raw_pixels > 0.9
    assert found.layers[-1].accuracy > found.majority
    other = firstlight.probe(made / "run", made / "t10k-images-idx3-ubyte.gz", device="cpu", rows=50)
    assert (other.rows, other.task) == (50, str(made / "t10k-images-idx3-ubyte.gz"))
    assert command(["probe", str(made / "run"), "--device", "cpu"]) == 0
    assert f"raw pixels: {found.raw_pixels:.4f}" in capsys.readouterr().out
    assert command(["probe", str(made / "run"), "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["raw_pixels"] == found.raw_pixels


def test_a_probe_is_not_told_the_class(made: Path):
    """Were the class token read, even the embeddings would know it all."""
    from firstlight.stages.probe_images import _rows

    lm = LM.load_fp32(made / "run")
    rows = TokenStore.open(made / "run" / "data").train.tokens.reshape(-1, 37)
    assert {int(row.sequences[0][0]) for row in _rows(rows, lm.codec)} == {lm.codec.start_id}


@pytest.mark.slow
def test_stop_and_resume_changes_nothing(made: Path):
    assert verify_resume(made / "run" / "run.toml", steps=5, stop_at=2).equal


@pytest.mark.slow
def test_colours_have_a_palette(tmp_path: Path):
    pets = write_pets(tmp_path / "pets")
    overrides = [*SMALL, "image.size=4", "image.palette=8"]
    result = firstlight.pretrain([str(pets)], out=tmp_path / "run", overrides=overrides)
    assert result.bits_per_dim is not None
    codec = LM.load_fp32(tmp_path / "run").codec
    assert isinstance(codec, PixelCodec)
    assert (len(codec.palette), codec.classes, codec.vocab_size) == (8, ("cats", "dogs"), 11)
    lm = firstlight.load(tmp_path / "run", device="cpu")
    drawn = images.sample_images(lm, out=tmp_path / "g.png", num_samples=2)
    assert drawn.rows == ["cats", "dogs"]
    again = firstlight.pretrain([str(pets)], out=tmp_path / "again", overrides=overrides)
    assert again.valid_loss == result.valid_loss
    # A run that starts from these weights keeps their palette, whatever it would find itself.
    write_pets(tmp_path / "more", 40)
    firstlight.pretrain(
        [str(tmp_path / "more")], out=tmp_path / "on", init_from=str(tmp_path / "run"), overrides=SMALL[3:]
    )
    assert LM.load_fp32(tmp_path / "on").codec == codec


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("palette", "8", "applies to colours, but the first image is grey"),
        ("levels", "8", "applies to grey images, but the first image has colours"),
    ],
)
def test_what_the_images_make_useless_is_refused(name: str, value: str, why: str, tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((20, 4, 4, *([3] if name == "levels" else [])), np.uint8))
    with pytest.raises(ConfigError, match=f"image.{name}: {why}"):
        firstlight.pretrain(tmp_path / "a.npy", out=tmp_path / "run", overrides=[*SMALL, f"image.{name}={value}"])
    overrides = [*SMALL, "image.size=2", "image.levels=4", "image.colors=grey", "train.steps=1"]
    firstlight.pretrain(tmp_path / "a.npy", out=tmp_path / "run", overrides=overrides)


def test_a_model_of_grey_images_has_no_palette(made: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"image.palette: has no effect, since the model to start from has levels"):
        firstlight.pretrain(
            [str(made / "train-images-idx3-ubyte.gz")],
            out=tmp_path / "on",
            init_from=str(made / "run"),
            overrides=[*SMALL[3:], "image.palette=8"],
        )


def test_an_import_keeps_what_the_ids_mean(made: Path, tmp_path: Path):
    export(made / "run", "hf", tmp_path / "copy")
    found = import_(str(tmp_path / "copy"), out=tmp_path / "imported")
    assert found.tokenizer == "none, but pixels.json"
    assert LM.load_fp32(tmp_path / "imported").codec == LM.load_fp32(made / "run").codec
    train([Document("a b", "a.txt")], TokenizerSettings(kind="byte")).save(tmp_path / "bytes")
    with pytest.raises(UsageError, match="Leave out --tokenizer"):
        import_(str(tmp_path / "copy"), out=tmp_path / "other", tokenizer_path=tmp_path / "bytes")


def test_images_without_classes(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (60, 4, 4)).astype(np.uint8))
    firstlight.pretrain([str(tmp_path / "a.npy")], out=tmp_path / "run", overrides=[*SMALL, "image.levels=2"])
    lm = firstlight.load(tmp_path / "run", device="cpu")
    assert (lm.codec.classes, lm.codec.vocab_size) == ((), 3)
    assert images.sample_images(lm, out=tmp_path / "g.png", num_samples=3).rows == [""]
    with pytest.raises(UsageError, match="images without classes"):
        firstlight.probe(tmp_path / "run", device="cpu")


def test_another_block_size_is_refused(made: Path, tmp_path: Path):
    path = str(made / "train-images-idx3-ubyte.gz")
    with pytest.raises(UsageError, match="model.block_size: is not the number of pixels .*found 64; expected 36"):
        firstlight.pretrain([path], out=tmp_path / "run", overrides=[*SMALL, "model.block_size=64"])
    firstlight.pretrain([path], out=tmp_path / "run", overrides=[*SMALL, "model.block_size=36"])
    with pytest.raises(ConfigError, match="image.levels"):
        firstlight.pretrain([path], out=tmp_path / "no", overrides=["image.levels=1"])


def test_without_pillow_a_run_ends_well_and_drawing_says_what_to_install(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "PIL", None)
    path = str(made / "train-images-idx3-ubyte.gz")
    result = firstlight.pretrain([path], out=tmp_path / "run", overrides=SMALL)
    assert result.finished
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "No images: that needs Pillow" in page
    assert "img-src" not in page
    with pytest.raises(MissingExtra, match="pillow>="):
        images.sample_images(firstlight.load(tmp_path / "run", device="cpu"), out=tmp_path / "g.png")


def test_a_checkpoint_loads_in_transformers(made: Path):
    transformers = pytest.importorskip("transformers")
    ours = LM.load_fp32(made / "run")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(ours.source)
    ids = torch.tensor([[17, *range(15)]])
    with torch.no_grad():
        wanted = ours.model(ids)
        assert torch.allclose(theirs(ids).logits, wanted, atol=1e-4)


@pytest.mark.slow
def test_real_digits_of_mnist(shared_data: Path, tmp_path: Path):
    path = shared_data / "images" / "train-images-idx3-ubyte.gz"
    overrides = [*SMALL, "image.size=7", "image.levels=4", "train.eval_windows=200", "train.steps=60"]
    result = firstlight.pretrain([str(path)], out=tmp_path / "run", overrides=overrides)
    assert result.bits_per_dim < 2
    store = TokenStore.open(tmp_path / "run" / "data")
    assert store.train.n_documents + store.valid.n_documents == 60_000
    assert LM.load_fp32(tmp_path / "run").codec.classes == tuple("0123456789")


def test_a_probe_reads_links_and_leaves_out_bad_images_as_advised(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Image = pytest.importorskip("PIL.Image")
    for name in ("0/a.png", "1/a.png", "../far.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 9, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "1" / "b.png").symlink_to(tmp_path / "far.png")
    (tmp_path / "in" / "0" / "bad.png").write_bytes(b"bad")
    arguments = ["probe", str(made / "run"), str(tmp_path / "in"), "--device", "cpu", "--json"]
    assert command(arguments) == 1
    refused = capsys.readouterr().err
    assert "corpus.follow_symlinks=true" in refused
    assert "corpus.on_bad_document=skip" in refused
    assert command([*arguments, "corpus.follow_symlinks=true", "corpus.on_bad_document=skip"]) == 0
    assert "not followed" not in capsys.readouterr().err
    assert command(["generate", str(made / "run"), "--image", str(tmp_path / "in"), "--out", str(tmp_path / "g")]) == 1
    refused = capsys.readouterr().err
    assert "Copy the folder with cp -rL" in refused
    assert "corpus." not in refused  # that command has no settings


def test_a_class_is_refused_where_images_have_none(tmp_path: Path):
    dice = np.random.default_rng(0)
    np.save(tmp_path / "flat.npy", dice.integers(0, 256, (40, 6, 6), dtype=np.uint8))
    firstlight.pretrain([str(tmp_path / "flat.npy")], out=tmp_path / "run", overrides=[*SMALL, "train.steps=1"])
    assert "class_dropout" not in (tmp_path / "run" / "run.toml").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="images without classes"):
        images.sample_images(LM.load_fp32(tmp_path / "run"), out=tmp_path / "g.png", class_name="cat")
