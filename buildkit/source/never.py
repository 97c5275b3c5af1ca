"""Names that are never packed, whatever git and the settings say: each with the reason and where it is documented."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class NeverPacked(NamedTuple):
    """Names, in any case, that are never packed.

    Attributes:
        names: Patterns with `*` for a name, or for the last two names of a path; separated by spaces.
        reason: What such a file or folder is.
        source: Where that is documented.
    """

    names: str
    reason: str
    source: str


_VCS = "version control"
_CACHE = "a cache"
_CLOUD = "credentials of a cloud account"
_ENV = "environment variables, which may be secret"
_LOGIN = "passwords or tokens"
_KEY = "a private key"
_SSH = "a private SSH key"
_STATE = "the state or the variables of an infrastructure, which may be secret"
_VENV = "a virtual environment"

_GIT_DOCS, _HASHICORP = "https://git-scm.com/docs", "https://developer.hashicorp.com"
_FOLDERS = (
    NeverPacked(".git", _VCS, f"{_GIT_DOCS}/gitrepository-layout"),
    NeverPacked(".hg", _VCS, "https://wiki.mercurial-scm.org/Repository"),
    NeverPacked(".svn", _VCS, "https://svnbook.red-bean.com/en/1.7/svn.tour.initial.html"),
    NeverPacked(".bzr .jj", _VCS, "https://docs.jj-vcs.dev/latest/glossary"),
    NeverPacked("__pycache__", _CACHE, "https://peps.python.org/pep-3147/"),
    NeverPacked(".mypy_cache", _CACHE, "https://mypy.readthedocs.io/en/stable/command_line.html#incremental-mode"),
    NeverPacked(".pytest_cache .hypothesis", _CACHE, "https://docs.pytest.org/en/stable/how-to/cache.html"),
    NeverPacked(".ruff_cache .uv-cache", _CACHE, "https://docs.astral.sh/ruff/settings/#cache-dir"),
    NeverPacked(".ipynb_checkpoints", _CACHE, "https://jupyter-notebook.readthedocs.io"),
    NeverPacked(".venv .tox .nox", _VENV, "https://docs.python.org/3/library/venv.html"),
    NeverPacked(".ssh", _SSH, "https://man.openbsd.org/ssh#FILES"),
    NeverPacked(".gnupg", _KEY, "https://www.gnupg.org/documentation/manuals/gnupg/GPG-Configuration.html"),
    NeverPacked(".aws", _CLOUD, "https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html"),
    NeverPacked(".azure", _CLOUD, "https://learn.microsoft.com/cli/azure/azure-cli-configuration"),
    NeverPacked(".config/gcloud", _CLOUD, "https://cloud.google.com/sdk/docs/configurations"),
    NeverPacked(".kube", "credentials of a cluster", "https://kubernetes.io/docs/concepts/configuration/"),
)
_FILES = (
    NeverPacked(
        ".env .env.* .env-* .env_* *.env", _ENV, "https://docs.docker.com/compose/how-tos/environment-variables/"
    ),
    NeverPacked(".flaskenv", _ENV, "https://flask.palletsprojects.com/en/stable/cli/"),
    NeverPacked(".envrc", _ENV, "https://direnv.net"),
    NeverPacked("id_rsa id_dsa id_ecdsa id_ed25519", _SSH, "https://man.openbsd.org/ssh-keygen#FILES"),
    NeverPacked("id_rsa[_-]* id_dsa[_-]* id_ecdsa[_-]* id_ed25519[_-]*", _SSH, "https://man.openbsd.org/ssh-keygen"),
    NeverPacked("*deploy_key *deploy-key", _SSH, "https://docs.github.com/authentication/managing-deploy-keys"),
    NeverPacked("*.p8 *.pk8", _KEY, "https://www.rfc-editor.org/rfc/rfc5958"),
    NeverPacked("*.p12 *.pfx", _KEY, "https://www.rfc-editor.org/rfc/rfc7292"),
    NeverPacked("*.ppk", _KEY, "https://the.earth.li/~sgtatham/putty/latest/htmldoc/AppendixC.html"),
    NeverPacked("*.jks *.keystore", _KEY, "https://docs.oracle.com/javase/8/docs/technotes/tools/unix/keytool.html"),
    NeverPacked("*.asc", "an exported OpenPGP key", "https://www.gnupg.org/gph/en/manual/x56.html"),
    NeverPacked("*.kdbx", _LOGIN, "https://keepass.info/help/kb/kdbx.html"),
    NeverPacked(
        "*service[_-]account*.json *serviceaccount*.json",
        _CLOUD,
        "https://cloud.google.com/iam/docs/keys-create-delete",
    ),
    NeverPacked("application_default_credentials.json", _CLOUD, "https://cloud.google.com/docs/authentication"),
    NeverPacked("*.tfstate *.tfstate.*.backup", _STATE, f"{_HASHICORP}/terraform/language/state/sensitive-data"),
    NeverPacked("*.tfvars *.tfvars.json", _STATE, f"{_HASHICORP}/terraform/language/values/variables"),
    NeverPacked(".vault-token", _LOGIN, f"{_HASHICORP}/vault/docs/commands/token-helper"),
    NeverPacked(".netrc _netrc", _LOGIN, "https://everything.curl.dev/usingcurl/netrc.html"),
    NeverPacked(".pypirc", _LOGIN, "https://packaging.python.org/specifications/pypirc/"),
    NeverPacked("pip.conf pip.ini", _LOGIN, "https://pip.pypa.io/en/stable/topics/configuration/"),
    NeverPacked(".npmrc", _LOGIN, "https://docs.npmjs.com/cli/configuring-npm/npmrc"),
    NeverPacked(".yarnrc.yml", _LOGIN, "https://yarnpkg.com/configuration/yarnrc"),
    NeverPacked(".pgpass", _LOGIN, "https://www.postgresql.org/docs/current/libpq-pgpass.html"),
    NeverPacked(".my.cnf", _LOGIN, "https://dev.mysql.com/doc/refman/en/option-files.html"),
    NeverPacked(".git-credentials", _LOGIN, f"{_GIT_DOCS}/git-credential-store"),
    NeverPacked(".htpasswd", _LOGIN, "https://httpd.apache.org/docs/current/programs/htpasswd.html"),
    NeverPacked(".dockercfg .docker/config.json", _LOGIN, "https://docs.docker.com/reference/cli/docker/login/"),
    NeverPacked("*.swp *.swo", "an editor's copy of another file", "https://vimhelp.org/recover.txt.html"),
    NeverPacked("*.pyc *.pyo", _CACHE, "https://peps.python.org/pep-3147/"),
)
_TEMPLATES = frozenset({"example", "sample", "template", "dist"})
_PUBLIC_KEY = ".pub"
_BACKUPS = ("~", ".bak", ".backup", ".old", ".orig", ".save")
_MAYBE_PRIVATE_KEY = frozenset({"pem", "key"})


def find_never_folder(path: str) -> NeverPacked | None:
    """Return the rule by which nothing in the folder at `path` is packed; those above it are not considered."""
    return _FOLDER_RULES.find(path)


def find_never_file(path: str) -> NeverPacked | None:
    """Return the rule by which the file at `path` is never packed, whatever its folders are called."""
    return _FILE_RULES.find(path)


def may_be_private_key(path: str) -> bool:
    """Return whether only the content of a file of that name tells whether it is a private key."""
    return path[-4:-3] == "." and path[-3:].lower() in _MAYBE_PRIVATE_KEY


class _Rules:
    """Finds the rule for a path; how the patterns begin and end sorts out nearly every path at once.

    Args:
        copies: Whether backups count too, and templates and public keys do not.
    """

    def __init__(self, rules: tuple[NeverPacked, ...], *, copies: bool) -> None:
        self._rules = rules
        self._copies = copies
        patterns = [pattern.rpartition("/")[2] for rule in rules for pattern in rule.names.split()]
        wild = [pattern for pattern in patterns if "*" in pattern or "[" in pattern]
        self._names = frozenset(patterns) - frozenset(wild)
        self._starts = tuple({_cut(pattern) for pattern in wild} - {""})
        self._ends = tuple({pattern.rpartition("*")[2] for pattern in wild if pattern.startswith("*")})
        if copies:
            self._ends += _BACKUPS

    def find(self, path: str) -> NeverPacked | None:
        """Return the first rule about the last name, or the last two names, of a path."""
        name = path[path.rfind("/") + 1 :].lower()
        if not (name in self._names or name.startswith(self._starts) or name.endswith(self._ends)):
            return None
        if self._copies and (
            name.endswith(_PUBLIC_KEY) or _TEMPLATES & {name.partition(".")[0], name.rpartition(".")[2]}
        ):
            return None
        places = [path.lower()]
        places += [places[0].removesuffix(end) for end in _BACKUPS if self._copies and name.endswith(end)]
        return next((rule for rule in self._rules if any(_matches(rule, place) for place in places)), None)


def _matches(rule: NeverPacked, place: str) -> bool:
    names = place.split("/")
    return any(fnmatchcase("/".join(names[-1 - text.count("/") :]), text) for text in rule.names.split())


def _cut(pattern: str) -> str:
    """Return what a pattern begins with, before its first wildcard."""
    return pattern.partition("*")[0].partition("[")[0]


_FOLDER_RULES = _Rules(_FOLDERS, copies=False)
_FILE_RULES = _Rules((*_FOLDERS, *_FILES), copies=True)
