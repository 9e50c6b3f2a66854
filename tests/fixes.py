"""Does what the hint of an error says, literally: nothing here knows which mistake was made."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

import typer
from ruamel.yaml import YAML

from pipeline.commands.app import app

COMMANDS = typer.main.get_command(app).commands
_SET_TO = re.compile(r"(?<!-)\bset ([a-z]+\.[\w.*]+) to (.+?)(?= \(|, set |; or |; then|\. |$)", re.MULTILINE)
_SET = re.compile(r"(?<!-)\bset ((?:[a-z]+\.[\w.]+=[^\s,;]+(?:, )?)+)")
_KEY = re.compile(r"(?<![\w.])(outputs|inputs|constants|reference|parity|model\.key): ([\[{].*[\]}]|[\w.-]+)")


@dataclass
class Error:
    """What a command printed of an error."""

    message: str
    fix: str

    @classmethod
    def read(cls, printed):
        found = re.search(r"^error: (.*?)(?:^fix:   (.*?))?(?:^more:  .*)?\Z", printed, re.DOTALL | re.MULTILINE)
        assert found, printed
        return cls(found[1].strip(), (found[2] or "").strip())


@dataclass
class Fix:
    """What a hint asks for: further arguments, others in the place of some, commands to run before, a new config."""

    arguments: list[str]
    before: list[list[str]] = field(default_factory=list)


def fixed(arguments, error, config, filled=None):
    """Return the arguments of a command as its error asks for, having edited the config where that is asked; None if it asks for nothing known.

    `filled` are the values of words in capitals.
    """
    said = error.fix or error.message
    for word, value in (filled or {}).items():
        said = said.replace(word, value)
    fix = Fix(list(arguments))
    done = [
        each(fix, said, error, config)
        for each in (_commands, _replaced, _left_out, _removed, _taken_out, _assigned, _options)
    ]
    return fix if any(done) else None


def _commands(fix, said, _error, _config):
    fix.before = [
        words[1:]
        for found in re.findall(r"weighbridge [^;,()]+", said)
        if (words := _until_prose(shlex.split(found)))[1] in COMMANDS
    ]
    done = bool(fix.before)
    if done and fix.before[0][0] == fix.arguments[0]:  # the same command, as it should have been
        fix.arguments = fix.before.pop(0)
    return done


def _until_prose(words):
    """Return a command without the words of the sentence behind it."""
    ends = next(
        (index for index, word in enumerate(words) if word in {"writes", "says", "lists", "prints", "wrote"}), None
    )
    return words[:ends]


def _replaced(fix, said, error, config):
    """Put what is there, or the first of what there is to choose from, in the place of what is wrong."""
    near = re.search(r"nearest valid: '([^']+)'", f"{error.message}\n{said}") or re.search(
        r"\b(?:choose from|such as|write it as in|call it|did you mean|as in) (?:--set )?([\w./:=-]+)", said
    )
    wrong = _wrong(error.message, near[1] if near else "")
    if not near or not wrong:
        return False
    fix.arguments = [re.sub(rf"(?<![\w/]){re.escape(wrong)}(?!\w)", near[1], each) for each in fix.arguments]
    if config is not None and config.is_file():
        config.write_text(re.sub(rf"(?<![\w/]){re.escape(wrong)}(?!\w)", near[1], config.read_text()))
    return True


def _wrong(message, near):
    """Return the word that a message says is wrong."""
    if found := re.search(r"([\w.]+): unknown key", message):
        return found[1].rpartition(".")[2]
    for pattern in (
        r"--set ([^:]+): not of the form",
        r"--at-least: (\S+) is no version",
        r"(\S+) would be a safetensors",
        r"there is no file (?:\S*/)?([^\s/]+)",
    ):
        if found := re.search(pattern, message):
            return found[1]
    quoted = re.findall(r"'([^']+)'", message)
    return next((each for each in quoted if each != near), None)


def _left_out(fix, said, _error, _config):
    found = re.search(r"leave (--[a-z-]+) out", said)
    if found and found[1] in fix.arguments:
        index = fix.arguments.index(found[1])
        del fix.arguments[index : index + 2]
    return found


def _removed(_fix, said, _error, config):
    """Remove keys from the config, or `extends` from the file that is named."""
    if found := re.search(r"remove `(\w+)` from (\S+\.yaml)", said):
        file = config.parent / found[2].rpartition("/")[2]
        file.write_text(re.sub(rf"(?m)^{found[1]}:.*\n", "", file.read_text()))
        return True
    keys = re.search(r"remove ([a-z_]+(?: and [a-z_]+)*) from ([a-z.]+)", said)
    dotted = re.search(r"remove ([a-z]+)\.([a-z]+)", said)
    if not keys and not dotted:
        return False
    path, names = (keys[2], keys[1].split(" and ")) if keys else (dotted[1], [dotted[2]])
    _edit(config, path, lambda section: [section.pop(name) for name in names])
    return True


def _taken_out(_fix, said, error, config):
    """Take an item out of a list of the config, or add one."""
    out = re.search(r"(?:leave|take) `?([\w-]+)`? out of `(\w+)`", said) or re.search(r"take (it) out of `(\w+)`", said)
    added = re.search(r"add `([\w-]+)` to `(\w+)`", said)
    if not out and not added:
        return False
    name, key = (out or added).groups()
    name = re.search(r"required backend (\S+)", error.message)[1] if name == "it" else name
    _edit(config, "", lambda tree: tree[key].remove(name) if out else tree[key].append(name))
    return True


def _edit(config, path, change):
    yaml = YAML()
    tree = yaml.load(config.read_text())
    section = tree
    for part in path.split(".") if path else ():
        section = section[part]
    change(section)
    with config.open("w") as file:
        yaml.dump(tree, file)


def _assigned(fix, said, error, _config):
    """Set keys as `set KEY to VALUE`, `set KEY=VALUE` or `KEY: VALUE` say, wherever the error says it."""
    found = {key: _yaml(value) for key, value in _SET_TO.findall(said) or _SET_TO.findall(error.message)}
    for group in _SET.findall(said):
        found |= dict(each.split("=", 1) for each in group.strip(", ").split(", "))
    if not found:
        found = dict(_KEY.findall(said))
    fix.arguments += [word for key, value in found.items() for word in ("--set", f"{key}={value}")]
    return found


def _yaml(value):
    return {"True": "true", "False": "false", "None": "null"}.get(value, value)


def _options(fix, said, _error, _config):
    """Add the options that are given whole; of two ways, the first."""
    if "weighbridge " in said or re.search(r"such as|as in --set|leave --", said):
        return False
    command = COMMANDS[str(fix.arguments[0])]
    known = {option: each for each in command.params for option in each.opts}
    words = shlex.split(re.split(r", or |; ", said)[0].replace("(", " ( ").replace(")", " )").replace(",)", ")"))
    found = []
    for index, word in enumerate(words):
        if (option := known.get(word.rstrip(","))) is not None:
            found += [word.rstrip(",")] if option.is_flag else [word, words[index + 1].rstrip(",")]
    for word in found:
        while word in fix.arguments and (word == "--input" or not known[word].multiple):  # given anew
            place = fix.arguments.index(word)
            del fix.arguments[place : place + (1 if known[word].is_flag else 2)]
    fix.arguments += found
    return found
