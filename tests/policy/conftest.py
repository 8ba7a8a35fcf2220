"""Makes ``facts_factory`` and ``golden_cases`` importable to the tests beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
