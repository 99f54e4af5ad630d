"""TASK.toml: what it may say, and one clear message for each thing that it may not."""

from pathlib import Path

import pytest

from firstlight.errors import CheckpointError, ConfigError, UsageError
from firstlight.finetuning import head_of, read_spec, read_tasks
from small_task import spec, write_task

HEAD = 'kind = "classification"\n[data]\ntrain = "a.tsv"\n'
COLUMNS = '[columns]\ntext = "t"\nlabel = "l"\n'


def read(tmp_path: Path, text: str):
    path = tmp_path / "mood.toml"
    path.write_text(text, encoding="utf-8")
    return read_spec(path)


def test_the_name_is_the_files_and_the_folder_lies_beside_it(tmp_path: Path) -> None:
    made = read(tmp_path, HEAD.replace("[data]", '[data]\nfolder = "sub"') + COLUMNS)
    assert made.name == "mood"
    assert Path(made.data.folder) == tmp_path / "sub"
    assert read_spec(tmp_path / "mood.toml", data=Path("elsewhere")).data.folder == str(Path("elsewhere") / "sub")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            HEAD.replace("classification", "classificaton") + COLUMNS,
            r"mood.toml: kind: unknown task kind 'classificaton' .*Did you mean 'classification'",
        ),
        (HEAD + COLUMNS + "lable = 1\n", r"mood.toml: columns.lable: unknown setting .*Did you mean columns.label"),
        (HEAD, "a task of kind classification needs columns.text"),
        ('kind = "classification"\n' + COLUMNS, r"mood.toml: data: field required"),
        (HEAD + '[columns]\ntext = "t"\n' + "\n", ""),
        ('labels = ["a"]\nlabel_values = ["1", "2"]\n' + HEAD + COLUMNS, "1 names in labels, but 2 in label_values"),
        ('labels = ["a", "a"]\n' + HEAD + COLUMNS, "two labels are the same"),
        (
            'metric = "pearson"\n' + HEAD + COLUMNS,
            "metric pearson does not fit a task of kind classification; expected one of accuracy",
        ),
        (
            'pool = "mean"\n' + HEAD.replace("classification", "token_classification") + COLUMNS + "tokens = 1\n",
            "pool mean does not fit",
        ),
        ('pool = "mean"\n' + HEAD.replace("classification", "text") + COLUMNS, "pool mean does not fit .* kind text"),
        (
            HEAD.replace("classification", "chat") + '[columns]\ntext = "a"\n',
            "a task of kind chat needs columns.messages, or columns.text",
        ),
        ("scale = [3.0, 1.0]\n" + HEAD.replace("classification", "regression") + COLUMNS, "a lower and a higher score"),
        (
            "scale = [0.0, 1e308]\n" + HEAD.replace("classification", "regression") + COLUMNS,
            "at most 3.4e[+]38 in size",
        ),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, told: str) -> None:
    if not told:
        assert read(tmp_path, text).columns.label is None, "whether a label is there is seen in the rows"
        return
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such settings file"):
        read_spec(tmp_path / "none.toml")


def test_a_similarity_with_labels_is_a_classification() -> None:
    scored, labelled = spec("similarity"), spec("similarity", label_values=["0", "1"], labels=["no", "yes"])
    assert not head_of(scored).has_classes and head_of(labelled).has_classes
    assert head_of(scored).n_outputs(scored) == 1 and head_of(labelled).n_outputs(labelled) == 2


def test_the_examples_are_valid_and_say_where_their_sets_come_from() -> None:
    folder = Path(__file__).parents[2] / "examples" / "tasks"
    files = sorted(folder.glob("*.toml"))
    assert len(files) >= 15
    for path in files:
        made = read_spec(path)
        assert made.name == path.stem
        assert path.read_text(encoding="utf-8").startswith("# "), path


def test_the_small_task_reads(tmp_path: Path) -> None:
    assert read_spec(write_task(tmp_path)).kind == "classification"


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "[1]", '{"a": 1}', '[{"name": "t"}]', '[{"kind": "nope"}]'])
def test_a_damaged_tasks_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "tasks.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tasks\.json: ") as caught:
        read_tasks(tmp_path)
    assert "\n" not in caught.value.message
    assert "pydantic" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('valid_ratio = 0.2\n[data]\ntrain = "a.tsv"\nvalid = "b.tsv"\n', "valid_ratio: applies where data.valid"),
        ('[data]\ntrain = "a.jsonl"\ndelimiter = ";"\n', "data.delimiter: applies to csv and tsv, .* are jsonl"),
        ('[data]\ntrain = "a.json.gz"\nheader = false\n', "data.header: applies to csv and tsv, .* are json"),
        ('[data]\ntrain = "a.tsv"\nfield = "rows"\n', "data.field: applies to json, but the files are tsv"),
        ('[data]\ntrain = "a.parquet"\nencoding = "gb18030"\n', "data.encoding: applies to .*, .* are parquet"),
        ('[data]\ntrain = "a.zip"\nformat = "folders"\nexplode = "x"\n', "data.explode: applies to"),
    ],
)
def test_a_setting_without_effect_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, 'kind = "classification"\n' + text + COLUMNS)


@pytest.mark.parametrize(
    "data",
    [
        'valid_ratio = 0.2\n[data]\ntrain = "a.tsv"\n',
        '[data]\ntrain = "a.TSV.gz"\nvalid = "b.json"\nfield = "rows"\nquotes = true\n',  # each by one of the files
        '[data]\ntrain = "TREC.train.all"\nheader = false\nmax_fields = 2\n',  # the name does not say the format
        '[data]\ntrain = "folder"\nencoding = "gb18030"\n',
        '[data]\ntrain = "hf:a/b"\nexplode = "qas"\n',
        '[data]\ntrain = ["a.txt", "b/*.csv"]\ndelimiter = ";"\n',
        '[data]\ntrain = "a.txt"\nformat = "json"\nfield = "rows"\n',
    ],
)
def test_a_setting_that_one_of_the_files_obeys_is_kept(tmp_path: Path, data: str) -> None:
    assert read(tmp_path, 'kind = "classification"\n' + data + COLUMNS).kind == "classification"
