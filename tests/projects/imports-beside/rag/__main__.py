from common import settings
from common.tokens import (
    count,
)

print(settings, count)
