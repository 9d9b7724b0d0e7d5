"""Users, API tokens, roles and access control lists: who may do what on which path.

A token with privilege separation has what its own lists give AND its user has: without lists of its own, nothing.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.pve.errors import ApiError, forbidden, unauthorized

ROOT = "root@pam"
PRIVILEGES = frozenset(
    [
        *("Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"),
        *("Pool.Allocate", "Pool.Audit", "Realm.AllocateUser", "SDN.Allocate", "SDN.Audit", "SDN.Use"),
        *("Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "Sys.Modify", "Sys.PowerMgmt", "Sys.Syslog"),
        *("User.Modify", "Permissions.Modify", "VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone", "VM.Console"),
        *("VM.Config.CPU", "VM.Config.Disk", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"),
        *("VM.Migrate", "VM.PowerMgmt", "VM.Snapshot", "VM.Snapshot.Rollback"),
    ]
)
# What a manager of flows needs, path by path.
LEAST: Mapping[str, Sequence[str]] = {
    "/": ("Sys.Audit",),
    "/vms": (
        *("VM.Audit", "VM.PowerMgmt", "VM.Console", "VM.Allocate", "VM.Clone"),
        *("VM.Config.CPU", "VM.Config.Disk", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"),
    ),
    "/storage/local": ("Datastore.AllocateSpace", "Datastore.Audit", "Datastore.AllocateTemplate"),
    "/sdn/zones/localnetwork/vmbr0": ("SDN.Use",),
}
DUMPED = ("/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: a user, or a token of a user."""

    user: str
    token: str | None = None

    @property
    def id(self) -> str:
        return f"{self.user}!{self.token}" if self.token else self.user

    @property
    def is_root(self) -> bool:
        """The literal root@pam: a token of it is not."""
        return self.user == ROOT and self.token is None


@dataclass(slots=True)
class User:
    id: str
    password: str
    enabled: bool = True


@dataclass(slots=True)
class Token:
    user: str
    name: str
    secret: str
    privsep: bool = True
    expire: float = 0
    comment: str = ""

    @property
    def id(self) -> str:
        return f"{self.user}!{self.name}"


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    kind: str
    who: str
    role: str
    propagate: bool = True


@dataclass(slots=True)
class Access:
    clock: Callable[[], float]
    users: dict[str, User] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    roles: dict[str, frozenset[str]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def prepare(self) -> None:
        self.roles |= {
            "Administrator": PRIVILEGES,
            "NoAccess": frozenset(),
            "PVEAuditor": frozenset({"VM.Audit", "Datastore.Audit", "Sys.Audit", "SDN.Audit", "Pool.Audit"}),
            "PVEVMUser": frozenset({"VM.Audit", "VM.Backup", "VM.Console", "VM.PowerMgmt"}),
        }
        self.add_user(ROOT, secrets.token_hex(16))

    # --- who is there -----------------------------------------------------------------------------------------------

    def add_user(self, id: str, password: str) -> User:
        self.users[id] = User(id, password)
        return self.users[id]

    def add_token(self, user: str, name: str, *, privsep: bool = True, expire: float = 0, comment: str = "") -> Token:
        """:raises ApiError: 400, when the user has one of that name."""
        token = Token(user, name, str(uuid.uuid4()), privsep, expire, comment)
        if token.id in self.tokens:
            raise ApiError(400, "Parameter verification failed.", errors={"tokenid": "Token already exists."})
        self.tokens[token.id] = token
        return token

    def grant(self, id: str, role: Mapping[str, Sequence[str]]) -> None:
        """A role of its own for each path: to a user, or to a token."""
        for path, privileges in role.items():
            name = f"{id}:{path}".replace("/", ".").replace("@", "-").replace("!", "-").replace(":", "-")
            self.roles[name] = frozenset(privileges)
            self.entries.append(Entry(path, "token" if "!" in id else "user", id, name))

    def remove_right(self, id: str, privilege: str | None = None) -> None:
        """Take one privilege, or all, from a user or token, on every path."""
        for entry in [entry for entry in self.entries if entry.who == id]:
            if privilege is None:
                self.entries.remove(entry)
            else:
                self.roles[entry.role] = self.roles[entry.role] - {privilege}

    def forget_token(self, id: str) -> None:
        self.tokens.pop(id, None)
        self.entries = [entry for entry in self.entries if entry.who != id]

    # --- who asks ---------------------------------------------------------------------------------------------------

    def by_token(self, header: str) -> Identity:
        """`USER@REALM!NAME=UUID`. :raises ApiError: 401."""
        id, _, secret = header.partition("=")
        token = self.tokens.get(id)
        if token is None or not secrets.compare_digest(token.secret.encode(), secret.encode()):
            raise unauthorized("Authentication failed!")
        user = self.users.get(token.user)
        if user is None or not user.enabled or (token.expire and token.expire < self.clock()):
            raise unauthorized("Authentication failed!")
        return Identity(token.user, token.name)

    # --- what they may ----------------------------------------------------------------------------------------------

    def _lists(self, who: str) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
        """By path: what there is on it, and what of that goes on to what is below."""
        found: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        for entry in self.entries:
            if entry.who == who:
                path, given = entry.path.rstrip("/"), self.roles.get(entry.role, frozenset())
                here, below = found.get(path, (frozenset(), frozenset()))
                found[path] = (here | given, below | given if entry.propagate else below)
        return found

    def view(self, who: Identity) -> Callable[[str], frozenset[str]]:
        """What they may on a path, as the lists are now; for those who ask of many paths."""
        if who.user == ROOT:
            whole: Callable[[str], frozenset[str]] = lambda path: PRIVILEGES  # noqa: E731
        else:
            whole = partial(_deepest, self._lists(who.user))
        if who.token is None:
            return whole
        token = self.tokens.get(who.id)
        if token is None:
            return lambda path: frozenset()
        if not token.privsep:
            return whole
        own = self._lists(who.id)
        return lambda path: whole(path) & _deepest(own, path)

    def privileges(self, who: Identity, path: str) -> frozenset[str]:
        return self.view(who)(path)

    def has(self, who: Identity, path: str, privileges: Sequence[str], *, any: bool = False) -> bool:
        given = self.privileges(who, path)
        return bool(given & set(privileges)) if any else given >= set(privileges)

    def check(self, who: Identity, path: str, privileges: Sequence[str], *, any: bool = False) -> None:
        """:raises ApiError: 403, naming the path and what is missing there."""
        given = self.privileges(who, path)
        if any:
            if not given & set(privileges):
                raise forbidden(f"{path}, {'|'.join(privileges)}")
            return
        for privilege in privileges:
            if privilege not in given:
                raise forbidden(f"{path}, {privilege}")

    def table(self, who: Identity, path: str | None = None) -> dict[str, dict[str, int]]:
        """As GET /access/permissions: path by path, what there is."""
        own = [entry.path for entry in self.entries if entry.who in (who.id, who.user)]
        paths = [path] if path else sorted({*DUMPED, *own})
        found = {each: self._flags(who, each) for each in paths}
        return {each: given for each, given in found.items() if given or path}

    def _flags(self, who: Identity, path: str) -> dict[str, int]:
        """What there is on a path, and of each whether it goes on to what is below."""
        below = self.view(who)(f"{path.rstrip('/')}/-")
        return {privilege: int(privilege in below) for privilege in sorted(self.privileges(who, path))}


def _deepest(lists: Mapping[str, tuple[frozenset[str], frozenset[str]]], path: str) -> frozenset[str]:
    """The deepest list on the way to a path counts."""
    path = path.rstrip("/")
    if path in lists:
        return lists[path][0]
    while path:
        path = path.rpartition("/")[0]
        if path in lists and (lists[path][1] or not lists[path][0]):
            return lists[path][1]
    return frozenset()
