"""Client processes that load servers: each reads its plan as JSON on stdin and tells what it saw as JSON on stdout.

``ClientProcess`` starts one. It connects, waits for the word to go, so that several begin at once, and then carries out a
``Plan`` of deductions or a ``WatchPlan``. Load must not come from the process that runs the tests: one Python process
cannot press servers hard enough, and its own scheduling would order the calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import batched, cycle, islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import grpc
from creditledger.v1 import credit_ledger_pb2 as pb
from creditledger.v1 import resources_pb2
from creditledger.v1.credit_ledger_pb2_grpc import CreditLedgerStub
from creditledger.v1.error_reason_pb2 import ErrorReason
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
