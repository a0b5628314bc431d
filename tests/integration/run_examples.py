"""Run the Python examples of a page in order, with a `digits` space that is calibrated and searched in seconds."""

import re
import sys
from pathlib import Path

from tiny import add_tiny_space

if __name__ == "__main__":
    add_tiny_space("digits")
    page = Path(sys.argv[1]).read_text()
    names: dict[str, object] = {}
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL), 1):
        exec(compile(example, f"example {number}", "exec"), names)
        print(f"example {number} ran")
