"""``python -m torchboard.cli`` is the command ``torchboard``."""

from __future__ import annotations

from torchboard.cli import main

raise SystemExit(main())
