"""The rule files' format, as models. Unknown keys are refused; docs/policy.md describes each key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["allow", "deny", "ask"]

_LINE = r"^[^\x00-\x1f\x7f]*$"
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Line = Annotated[str, Field(max_length=300, pattern=_LINE)]
Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=255, pattern=_LINE)]], Field(max_length=512)]
Texts = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=128)]
Notation = Annotated[str, Field(max_length=16384)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RuleTable(_Table):
    """One `[[rule]]`."""

    id: Identifier
    """Names the rule in verdicts and audit records; unique in a policy."""
    programs: Annotated[Names, Field(min_length=1)]
    """Bare names, as PATH or the shell finds them; `python -m X` is a module that an interpreter runs."""
    subcommands: Names = []
    """What the first operands must be, such as `status` or `stash list`. With it, `options` come after it."""
    verdict: Outcome = "allow"
    reason: Line = ""
    """Shown with the verdict."""
    alternative: Line = ""
    """What to do instead, shown with a denial."""
    otherwise: Literal["deny", "ask"] | None = None
    """The answer where an option or a form is not listed; the policy's `otherwise` if it is not given."""
    options: Notation = ""
    """Allowed options: `-n --name -o=KIND --color?=KIND -m!=KIND --arg=KIND,KIND -NUM`, separated by blanks."""
    operands: Notation = ""
    """Kinds of the operands in their order: `KIND`, `KIND?`, `KIND*`, `KIND+`."""
    style: Literal["gnu", "single"] = "gnu"
    permute: bool = True
    """Whether options may follow operands."""
    dashes: bool = False
    """Whether words that are not known may begin with a dash: no option of the program does harm."""
    any: bool = False
    """Whatever the arguments are."""
    instead: Notation = ""
    """Options that stand in for the first operand, as `grep -e` does for the expression."""
    requires: Notation = ""
    """Options of which one must be given."""
    writes: Notation = ""
    """Options with which operands of the kind `read` are written, as with `sed -i`."""
    implicit: str = ""
    """Kind that the current directory must be of when no operand is given."""
    wraps: bool = False
    """Whether the words after the operands are a command."""
    check: str = ""
    """A checker that knows the program's own grammar: see docs/policy.md."""
    env: Notation = ""
    """Variables that may be set for the program although they are refused elsewhere: `NAME=KIND`."""
    network: bool = False
    """Whether the program is meant to reach a network."""
    timeout: Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)] | None = None
    """Seconds that the command may take at most."""
    allows: Texts = []
    """Examples that the whole policy must allow; checked at load."""
    denies: Texts = []
    """Examples that it must not allow; checked at load."""


class TreesTable(_Table):
    """`[paths]`: trees in which files may be read, written (and read), and taken for code or settings."""

    read: Names = []
    write: Names = []
    code: Names = []


class PolicyTable(_Table):
    """A whole rule file."""

    description: Line = ""
    include: Names = []
    """Shipped sets or `*.toml` files beside this one, whose rules are added."""
    otherwise: Literal["deny", "ask"] = "deny"
    """The answer where a known program has an option or a form that is not listed."""
    open: bool = False
    """Everything is allowed; only the sandbox is left."""
    trusted: Names = []
    """Directories whose programs may be named by their path."""
    paths: TreesTable = TreesTable()
    rule: list[RuleTable] = Field(default=[], max_length=4096)
