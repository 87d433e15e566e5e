"""Every error that a user can meet, and the exit code that it gives.

    IteralignError
    ├── InputError        (2)  something the user can mend: the message says what was expected,
    │   │                      what came, and what to do
    │   ├── ConfigError        a key or value of the configuration
    │   ├── DataError          a file, line or column of a data set
    │   ├── SourceError        a model or data set that cannot be fetched or has the wrong hash
    │   ├── StoreError         a run directory that does not fit, or a full disk
    │   └── ModelError         a model that cannot be reached, loaded, or asked this
    │       ├── NothingFits    no row or pair can be trained on as it is encoded
    │       └── NotApplicable  the backend cannot do this kind of call at all
    ├── Stopped           (3)  a gate or a budget ended the run; what was finished stays
    └── Waiting           (0)  people are asked something; the same command goes on when they have answered

Anything else that escapes is a bug (exit code 1).
"""


class IteralignError(Exception):
    exit_code = 1


class InputError(IteralignError):
    exit_code = 2


class ConfigError(InputError):
    pass


class DataError(InputError):
    pass


class SourceError(InputError):
    pass


class StoreError(InputError):
    pass


class ModelError(InputError):
    pass


class NothingFits(ModelError):
    pass


class NotApplicable(ModelError):
    pass


class Stopped(IteralignError):
    exit_code = 3


class Waiting(IteralignError):
    exit_code = 0
