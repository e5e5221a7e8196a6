"""Import every package once, so that a module and a function of one name never collide.

``graph/verify.py`` holds ``graph.verify``: were the module imported after the package, the
module would take the function's place.
"""

import importlib
import pkgutil

from hypothesis import settings

import snu_plugin

# A busy machine is no defect: examples are counted, not timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

for _module in pkgutil.walk_packages(snu_plugin.__path__, "snu_plugin."):
    if _module.ispkg:
        importlib.import_module(_module.name)
