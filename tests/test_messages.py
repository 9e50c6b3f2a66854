"""Every error, read from the source as an outsider meets it: it says what to do, in words and with commands that there are."""

import re
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel

from pipeline.backends.table import BUILT_IN as BACKENDS
from pipeline.commands.app import app
from pipeline.config.models import Config
from pipeline.formats.table import BUILT_IN as FORMATS
from tests.messages import CLASSES, HOLE, Raised, raised, texts

COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    for name, command in COMMANDS.items()
}
GLOBAL = {"--debug", "--version", "--help"}
OTHERS = {
    **dict.fromkeys(("--address", "--head", "--port", "--resources"), "of ray start"),
    "--upgrade": "of pip",
    "--here": "of the script that repeats a crash",
    "--env-manager": "of mlflow",
    "--model-uri": "of mlflow",
    "--model-repository": "of tritonserver",
    "--from-oci-layout": "of oras",
    **dict.fromkeys(
        (
            "--break-system-packages",
            "--compile-bytecode",
            "--dry-run",
            "--link-mode",
            "--no-deps",
            "--progress-bar",
            "--python",
        ),
        "of pip and uv",
    ),
    **dict.fromkeys(("--report", "--target", "--upgrade", "--upgrade-package", "--upgrade-strategy"), "of pip and uv"),
}
PROSE = {"announced", "answered", "called", "config", "itself", "knows", "reference", "release", "takes"}
"""Words that follow "weighbridge" in a sentence about it."""
HELD_BY_ITS_MESSAGE = {
    "formats/onnx/bounded.py": "a reason in the report: outputs in a softmax are judged without this then",
    "formats/torchscript/audit.py": "a reason in the report",
    "formats/torchscript/canonical.py": "what torch wrote is not what torch writes",
    "parity/bounded.py": "a reason in the report",
    "parity/jobs.py": "a reason in the report",
    "parity/prove.py": "each backend's line has its own; the run adds where the report is",
    "run/plan.py": "each line names the nearest argument",
}
INSIDE = re.compile(
    r"\b(worker|request|runner|binding|pydantic|traceback|subprocess|asdict|dataclass instance)\b", re.IGNORECASE
)


def words_of(each: Raised) -> str:
    return f"{each.message}\n{each.hint or ''}"


def test_the_list_holds_every_error():
    assert len(raised()) > 380
    assert {each.kind for each in raised()} >= CLASSES.keys() - {"WeighbridgeError"}
    assert len({each.file.partition("/")[0] for each in raised()}) >= 14


def test_every_message_says_what_to_do_where_a_user_can_do_something():
    crashes = {name for name, each in CLASSES.items() if each.about in {"crashed", "defect"}}
    bare = [each for each in raised() if each.hint is None and each.kind not in crashes]
    assert [each.place for each in bare if each.file not in HELD_BY_ITS_MESSAGE] == []
    assert HELD_BY_ITS_MESSAGE.keys() <= {each.file for each in bare}


def test_no_message_has_a_word_that_only_its_makers_know():
    found = {each.place: hit[0] for each in raised() if (hit := INSIDE.search(words_of(each).replace(HOLE, "")))}
    assert found == {}


def test_every_command_that_is_named_exists():
    named = {each for text in texts().values() for each in re.findall(r"weighbridge ([a-z]+)", text)}
    assert len(named) > 20
    assert named - COMMANDS.keys() - PROSE == set()


def options_of(text):
    """Yield each option in a text with the options that there are for it: its command's, or anybody's."""
    anybody = set().union(*OPTIONS.values())
    for part in re.split(r"[),;\n]|(?=weighbridge )", text):
        command = re.match(r"weighbridge ([a-z]+)", part)
        known = OPTIONS[command[1]] if command and command[1] in COMMANDS else anybody
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", part):
            yield option, known | GLOBAL | OTHERS.keys()


def test_every_option_that_is_named_exists_and_belongs_to_the_command_beside_it():
    given = [(place, option, known) for place, text in texts().items() for option, known in options_of(text)]
    assert len(given) > 60
    assert [(place, option) for place, option, known in given if option not in known] == []
    assert [option for option, known in options_of("weighbridge verify X --seconds 3") if option not in known]


def keys_of(model):
    """Yield every key of a config's models, and of what formats and backends take."""
    for name, field in model.model_fields.items():
        yield name
        for each in models_in(field.annotation):
            yield from keys_of(each)


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for argument in get_args(annotation) for each in models_in(argument)]


def has_key(path):
    """Whether a dotted path may stand in a config; HOLE and NAME are any name."""
    current = Config
    for part in path.split("."):
        while get_origin(current) is Annotated:
            current = get_args(current)[0]
        if isinstance(current, type) and issubclass(current, BaseModel):
            if part in {HOLE, "NAME"}:
                return True
            if part not in current.model_fields:
                return False
            current = current.model_fields[part].annotation
        elif get_origin(current) is dict:
            current = get_args(current)[1]
        elif get_origin(current) is list:
            current = get_args(current)[0]
        else:
            models = models_in(current)
            return bool(models) and any(part in each.model_fields for each in models)
    return True


FILES = re.compile(
    r"\.(onnx|onnx\.data|torchscript|pte|xml|bin|pt|pkl|npz|json|safetensors(\.index\.json)?|weights\.h|state_dict)$"
)


def test_every_key_of_a_config_that_is_named_exists():
    roots = "|".join(Config.model_fields)
    path = re.compile(rf"(?<![\w./{{])(?:{roots})(?:\.(?:[A-Za-z_0-9]+|{HOLE}))+")
    named = {found for text in texts().values() for found in path.findall(text) if not FILES.search(found)}
    named -= {each.file for each in FORMATS}
    named -= {"model.weights.h5", "name.startswith"}  # keras's own file; Python
    assert len(named) > 20
    assert {each for each in named if not has_key(each)} == set()
    assert not has_key("model.wieghts")
    assert not has_key("inputs.x.hihg")


def test_every_word_in_backticks_is_a_key_or_a_name():
    known = {*keys_of(Config), "extends", "from", "shape"}
    known |= {name for each in (*FORMATS, *BACKENDS) for name in (each.name, *each.options.model_fields)}
    ticked = {
        word: each.place
        for each in raised()
        for word in re.findall(r"`([a-z_]+)(?::[^`]*)?`", words_of(each))
        if word not in known
    }
    assert ticked == {}


# --- the page -----------------------------------------------------------------------------------------------------------


def sections():
    from pipeline.run.explain import sections as found

    return found()


def verdicts():
    """Return every word for a verdict that the code's own types list."""
    from pipeline.benchmark import statistics
    from pipeline.formats.onnx.export import OnnxOptions
    from pipeline.formats.torchscript.export import TorchScriptOptions
    from pipeline.parity import document, rows
    from pipeline.report import compare

    listed = [
        statistics.Verdict,
        compare.Outcome,
        document.BackendResult.model_fields["status"].annotation,
        document.Exported.model_fields["status"].annotation,
        document.Refused.model_fields["status"].annotation,
        get_type_hints(rows.Rows)["verdict"],
        OnnxOptions.model_fields["method"].annotation,
        TorchScriptOptions.model_fields["method"].annotation,
    ]
    return {word for each in listed for word in get_args(each)} - {"auto"}


def test_every_verdict_that_can_be_printed_is_explained():
    from pipeline.run.explain import explain

    assert {"pass", "undecided", "regression", "refused", "trace"} <= verdicts()
    for word in verdicts() | {"up to date", "not compared", "FAILED", "CHECK"}:
        assert explain(word).text


def test_every_error_that_points_to_an_explanation_points_to_one_there_is():
    assert abouts() - sections().keys() == set()
    assert len(abouts()) > 20


def abouts():
    """Return the explanations that errors name."""
    return {name for each in raised() for name in (each.about or "").split(HOLE) if name}


def test_nothing_on_the_page_is_dead():
    """Each section is the name of an error, or its words are printed somewhere."""
    source = "\n".join(text.replace(HOLE, "…") for text in texts().values())
    used = abouts()
    dead = [(each.name, words) for each in sections().values() for words in each.seen if words not in source]
    assert dead == []
    assert [each.name for each in sections().values() if not each.seen and each.name not in used] == []
    assert {each.name for each in sections().values() if each.group == "Errors"} - used <= {"verify-failed"}


def test_every_section_says_what_it_means_and_what_to_do():
    for each in sections().values():
        assert re.fullmatch(r"[a-z][a-z-]*", each.name)
        assert each.summary.endswith(".")
        assert "\nDo: " in each.text


def test_the_page_in_the_documentation_is_the_one_that_ships():
    from pipeline.run.explain import PAGE

    assert Path("docs/explained.md").read_text() == PAGE.read_text(), f"cp {PAGE} docs/explained.md"


def test_every_command_and_key_on_the_page_exists():
    page = "\n".join(each.text for each in sections().values())
    for line in re.findall(r"`weighbridge (?!called)([a-z]+)([^`]*)`", page):
        assert line[0] in COMMANDS
        assert set(re.findall(r"--[a-z-]+", line[1])) <= OPTIONS[line[0]]
    roots = "|".join(Config.model_fields)
    for path in re.findall(rf"`((?:{roots})(?:\.\w+)+)", page):
        assert FILES.search(path) or has_key(path), path
