# Copyright The creditledger authors. SPDX-License-Identifier: Apache-2.0
"""`python -m creditledger.cli` is the command too."""

from creditledger.cli import main

if __name__ == "__main__":
    main()
