#!/bin/sh
""":" # Two languages: sh reads as far as exec, and to Python all of this is the docstring. A main script is parsed at
      # every start (7 ms per 1,000 lines), so sh has Python load what is compiled: the client's sections alone, which
      # the daemon's start leaves in __pycache__ (1.2 times a bare Python), else the whole (1.45 times), which import
      # compiles. There must be no backslash here.
      #
      # Python dies where a stream is a folder: occupy_streams() finds it in 9, 8 or 7. It ignores SIGPIPE and SIGXFSZ,
      # and cannot tell whether its caller did: a trap can, as what is ignored stays so. Nobody exports such variables.
distcc_lm_python=${DISTCC_LM_PYTHON:-/usr/bin/python3}
[ -x "$distcc_lm_python" ] || distcc_lm_python=python3
[ -d /dev/fd/0 ] && { [ -e /dev/fd/9 ] || exec 9<&0; exec <&-; }
[ -d /dev/fd/1 ] && { [ -e /dev/fd/8 ] || exec 8<&1; exec >&-; }
[ -d /dev/fd/2 ] && { [ -e /dev/fd/7 ] || exec 7<&2; exec 2>&-; }
distcc_lm_ignored="13 25"
trap 'distcc_lm_ignored=${distcc_lm_ignored#13}' 13
trap 'distcc_lm_ignored=${distcc_lm_ignored%25}' 25
kill -13 $$
kill -25 $$
exec "$distcc_lm_python" -IS -c 'import _signal, gc, marshal, posix, sys
if callable(_signal.getsignal(2)): _signal.signal(2, _signal.SIG_DFL)
gc.disable()
from _frozen_importlib_external import MAGIC_NUMBER as magic
path, caller, *sys.argv = sys.argv[1:]
while True:
    folder = path.rpartition("/")[0] or "."
    try: link = posix.readlink(path)
    except OSError: break
    path = link if link[0] == "/" else folder + "/" + link
sys.path.append(folder)
try:
    fd, found = posix.open(folder + "/__pycache__/client." + sys.implementation.cache_tag, 0), posix.stat(path)
    stamp, code = marshal.loads(posix.read(fd, 1 << 23))
    posix.close(fd)
    assert stamp == (magic, found.st_size, found.st_mtime_ns)
    client = type(sys)("distcc_lm_client")
    client.__file__ = path
    exec(code, client.__dict__)
except (AssertionError, EOFError, OSError, TypeError, ValueError): import distcc_lm as client
client.client_main(sys.argv, caller)
import distcc_lm
distcc_lm.main(sys.argv, caller)' "$0" "$distcc_lm_ignored${LC_CTYPE+=}${LC_CTYPE-}" "$0" "$@"

distcc_lm: load management for distcc.

Every box that submits compiles runs a local daemon. The daemons tell each other their load by UDP and remember how fast
each host ran jobs per KB at various loads. A compile asks its daemon for a host and is handed the open socket to it.
There is no central server, and nothing whose loss stops a build.

    make -j48 CC="distcc_lm.py cc gcc"
      | one short-lived client per compile
      v                        unix socket (peer credentials)
    +------------+  hello, size in KB, outcome   +------------------+   UDP: load, speed, slots    +------------------+
    | cc client  | ----------------------------> | daemon, this box | <--------------------------> | daemon, build2   |
    | preprocess | <---------------------------- | scheduler, stats |   TCP: admission (reserve)   | admission, slots |
    +-----+------+  an open, admitted job socket +------------------+ ---------------------------> | runs compilers   |
          |         (SCM_RIGHTS)                                                                   +--------^---------+
          +------------- source out, object + measured times back, over that socket; never relayed --------+

Sections, each using only those above it; 3 to 6 are pure (no IO, the clock is an argument), 7 to 10 hold no policy:

     1 tunables    every constant, with its unit
     2 ground      reasons and small records
     3 wire        distcc tokens, admission, load packets, client messages, host lists
     4 commands    what a compiler command asks for, and whether it may be distributed
     5 statistics  how fast each host runs jobs, by load and by class
     6 scheduler   where a job goes; who is next; how many a server takes
     7 job server  runs other machines' compiles, contained
     8 peers       load reports, and requests for a slot
     9 local       sessions of the clients on this box
    10 daemon      the event loop that drives 7 to 9
    11 client      `cc`: the hot path; uses 1 to 4 only
    12 reports     what status and why print; check
    13 install     launcher, masquerade links, service unit
    14 CLI         commands and main

Invariants, checked at run time and reported as bugs by name in the log:
  * slots taken on a server = jobs reserved or running there; each is given back exactly once
  * a lease of the scheduler belongs to exactly one live session of a client
  * every file descriptor in the event loop belongs to a known connection
  * whatever fails, a compile ends as it would have locally
"""
import posix
import sys

VERSION = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:       # ruff and mypy take it for true; at run time import_daemon_modules() does this
    import _thread
    import collections
    import errno
    import fcntl
    import gc
    import hashlib
    import hmac
    import ipaddress
    import json
    import math
    import mmap
    import os
    import random
    import resource
    import select
    import selectors
    import shutil
    import signal
    import socket
    import stat
    import struct
    import subprocess
    import tempfile
    import threading
    import time
    import zlib


def import_daemon_modules():
    """Import what all commands but `cc` use. Apart from the client, which would pay 60 ms for them at every compile."""
    global _thread, collections, errno, fcntl, gc, hashlib, hmac, ipaddress, json, math, mmap, os, random, resource
    global zlib, select, selectors, shutil, signal, socket, stat, struct, subprocess, tempfile, threading, time
    import _thread
    import collections
    import errno
    import fcntl
    import gc
    import hashlib
    import hmac
    import ipaddress
    import json
    import math
    import mmap
    import os
    import random
    import resource
    import select
    import selectors
    import shutil
    import signal
    import socket
    import stat
    import struct
    import subprocess
    import tempfile
    import threading
    import time
    try:
        import zlib
    except ImportError:         # a Python without it: then nothing is compressed
        zlib = None


# ==== 1. Tunables ===================================================================================================
# Every number that somebody may want to turn, unit in the name. Behind each: too low / too high.

DEFAULT_PORT = 3632                 # distcc's own
REPORT_INTERVAL_S = 1.0             # traffic / stale loads
REPORT_JITTER = 0.2                 # daemons that report in step / nothing
SLOW_REPORT_INTERVAL_S = 10.0       # in a large farm, to those that have submitted nothing lately: likewise
LARGE_FARM_HOSTS = 150              # from here on a farm is one: slow reports without need / traffic
RESOLVE_AGAIN_S = 30.0              # name servers are asked for nothing / a host that moved is away for longer
REPORT_BUNCH_S = 0.02               # a large farm's reports cost more CPU / loads are known later, and jobs lapse
REPORTS_BUNCHED_HOSTS = 100         # loads of a small farm are known later / CPU
REPORT_MIN_GAP_S = 0.1              # pushes flood the net / changes are seen late
PEER_TIMEOUT_S = 5.0                # busy hosts flap / a dead host is believed longer
PEER_TIMEOUT_INTERVALS = 3          # likewise, for hosts that report more rarely
REPORTERS_MOST = 4000               # large farms are not seen whole / spoofed addresses cost memory and reports
NEIGHBOURS_MOST = 100               # daemons on one kernel: work of some is foreign load / work and memory
SUBMITTER_MEMORY_S = 60.0           # reports stop in a short pause / go to those who no longer care
SECRET_LEAST_BYTES = 16             # a key may be guessed / good keys are refused
REPLAY_WINDOW = 4096                # requests that overtake each other are refused / memory, for each submitter
ECHO_PAUSE_S = 0.9                  # many that start at once ask too often / a lost answer delays what they know
FORMER_CHALLENGES = 16              # requests are refused once after others have restarted / nothing
WRONG_KEY_ANSWER_S = 1.0            # spoofed packets are answered / a wrong key is noticed late on its own side
LOG_REPEAT_S = 60.0                 # strangers fill the log / a lasting mishap looks as if it were over
UDP_MAX_BYTES = 1200                # too few list entries / packets are fragmented
CONNECT_TIMEOUT_S = 3.0             # a loaded host counts as dead / a dead one holds up jobs
ADMISSION_TIMEOUT_S = 5.0           # a slow host's answer is given up / a frozen host holds up jobs
LEASE_S = 2.0                       # a busy submitter loses its slots / a dead one holds them
PROGRESS_S = 20.0                   # slow links are cut off / a stalled sender holds a slot
SLOWEST_BYTES_S = 10_000            # beyond PROGRESS_S: slow links are cut off / a byte a second holds a slot
OPENING_S = 60.0                    # distcc clients that preprocess slowly are cut off / idle connections pile up
REFUSAL_LINGER_S = 1.0              # the refusal is lost to a reset / refused senders hold connections
UNADMITTED_PER_ADDRESS = 64         # parallel distcc clients are cut off / one address takes all descriptors
WAITING_PER_ADDRESS = 256           # large submitters are refused / one address takes all descriptors
UNADMITTED_TOTAL = 1024             # the same for the sum of all addresses
MAX_ARGUMENTS = 20_000              # long command lines are refused / memory for hostile ones
MAX_ARGUMENT_BYTES = 128 * 1024     # the kernel's own limit for one argument
MAX_ARGV_BYTES = 160 * 1024         # one message to the spawner; longer command lines are compiled locally
MAX_MESSAGE_BYTES = 1 << 20         # compiler output is cut / memory for a job that prints without end
MAX_LOAD_REQUEST_BYTES = 1024       # room for later fields / memory
COMPRESS_BELOW_KB_S = 25_000.0      # 200 Mbit/s. Slow links stay full / 10 ms of this box's CPU a MB for little
PACKING_MS_PER_MB = 9.0             # of a source, both ends' zlib: once slow, a link stays so / is tried in vain
COMPRESSED_WIRE = 0.6               # KB on the wire for each of the source, compressed, the object counted in; and
PLAIN_WIRE = 1.3                    # as it is. Hosts behind slow links get too little / too much
TEXT_WINDOW_BYTES = 16 << 20        # of a source searched at once. More marginal matches stay here / memory
TEXT_OVERLAP_BYTES = 1 << 20
LZO_BLOCK_BYTES = 1 << 20           # unpacked between writes; at least twice LZO_WINDOW. Slower / memory
MAX_CLIENT_MESSAGE_BYTES = 64 * 1024
SESSIONS_PER_UID = 2000             # large builds go local / one user takes all descriptors
QUESTIONS_PER_UID = 16              # beyond these, for `status` and the like: it is not answered / likewise
USERS_REMEMBERED = 100              # of whom something is remembered: who comes rarely is learnt anew / memory
HELLO_TIMEOUT_S = 1.0               # a busy daemon is passed by / a frozen one holds up each compile
DIRECTIVES_BANDWIDTH_KB_S = 20_000.0    # jobs wait for the link / the submitter preprocesses more than it must
DIRECTIVES_SHARE = 0.75             # of the slots: jobs crowd on the able hosts / likewise
OVERDUE_S = 30.0                    # slow jobs are taken from a plain distccd / a stuck one holds up the build
OVERDUE_RATIO = 5.0                 # the same, times the predicted duration
HEDGE_RATIO = 3.0                   # of the prediction, at the end of a build: work is done twice / it ends late
HEDGE_LEAST_S = 1.0                 # the same where little was predicted
HEDGE_BLIND_S = 10.0                # the same on a host that has not shown yet how fast it is
HEDGE_SHARE = 0.02                  # of all jobs, at most; one in any case: stragglers stay / a loaded farm gets more
MOVE_RATIO = 1.5                    # at the end, to a place that is so much sooner: work is done twice / it ends late
MOVE_SHARE = 0.1                    # of all jobs, at most; one in any case: likewise
UNDERRATED_RATIO = 1.25             # of the prediction; from here on a job is taken to be longer: likewise
REPLY_TIMEOUT_S = 300.0             # the same, for clients whose daemon is gone
SILENCE_TIMEOUT_S = 5.0             # the same once a client waits (the daemon pings it each second)
PING_INTERVAL_S = 1.0
RETRY_DAEMON_S = 2.0                # clients go local in a restart / wait for a daemon that is gone
FALLBACK_LOCK_S = 30.0              # after a crash 48 compiles start at once / builds pause
POOL_STALL_S = 10.0                 # more at once than the pool says / a deadlock lasts longer
TEXTS_HELD_MAX = 400                # remote slots idle while the next is preprocessed / memory
TEXTS_HELD_MAX_KB = 512 * 1024      # the same by size
BACKOFF_FIRST_S = 2.0               # a broken host is asked too often / a restarted one is left idle
BACKOFF_MAX_S = 60.0
GONE_S = 3600.0                     # hosts that were found come and go in `status` / reports to dead addresses
MISFIT_S = 300.0                    # a host that refused a compiler is asked in vain / is left idle for it
USER_NAMES_KEPT = 1000              # asked for again / memory
MISFITS_KEPT = 50                   # of each host: likewise / memory
BAD_FILES_BEFORE_SUSPECT = 2        # one odd file shuts a host out / a broken host costs many jobs
TRIES_REMOTE = 2                    # jobs go local at the first mishap / wander about
PARKED_MAX = 8                      # free slots are found late / useless requests
PARKED_PER_JOB = 2                  # a lone job waits for one host while others free slots / slots are held for nothing
CANDIDATES_ALL_MAX = 4              # up to here every host is weighed
CANDIDATES_ALONE_MAX = 32           # the same where nobody else submits
CANDIDATES_DRAWN = 3                # stale choice / herds
SPEED_TIE = 1.25                    # hosts that are alike sort their jobs / slow ones get long jobs
CANDIDATE_COST_RATIO = 2.0          # few hosts are used / slow ones make the tail
SHARES_KEPT = 1000                  # who had his share lately is served first / memory
FRAMES_KEPT = 50                    # kinds of slot: frames are made anew at every event / memory
LOCAL_GAIN_S = 1.0                  # this box's users are disturbed for little / it idles beside slow hosts
SLOW_JOB_RATIO = 8.0                # of the mean job's time: slow hosts idle / long jobs on them make the tail
ROSTER_INTERVAL_S = 0.25            # work for nothing / a host that may be tried again is found late
IDLE_HOST_S = 30.0                  # hosts are tried for nothing / one that has become fast stays unused
IDLE_HOST_SHARE = 0.02              # of the jobs go to a host unused for so long: likewise
COST_JITTER = 0.03                  # submitters choose in step / noise
FOREIGN_SMOOTHING_S = 1.0           # slots jitter / a user at the machine is noticed late
CAPACITY_INTERVAL_S = 0.25          # work for nothing / stale slots
GRANT_PAUSE_S = 0.25                # no new jobs for so long after a user was noticed
SLOTS_PER_CORE = 1.25               # cores idle while jobs are sent / overload
MEMORY_PER_JOB_MB = 512             # until more is learnt: paging / idle cores
MEMORY_JOBS_KEPT = 40               # of each class, to learn its need: jumpy / slow to learn
MEMORY_PRIOR_JOBS = 8               # few small jobs open many slots / that takes longer
JOB_PRIOR_S = 10.0                  # a job's life until one has ended: jobs start beyond the memory / cores idle
MEMORY_LEAST_MB = 100               # for any job: too many at once / idle cores
MEMORY_STEP = 1.5                   # a job's next try: it may fail again / it finds no host
DISK_RESERVE_MB = 64                # jobs fail for want of disk / hosts refuse early
SUSPEND_GAP_S = 2.0                 # a gap in the loop from here on forgives the age of reports
KB_PRIOR = 2000                     # weight of the speed that a host says of itself: jumpy / slow to learn
KB_PRIOR_BLIND = 500                # of the farm's median, for a host of which nothing is known: likewise
MS_PER_KB_PRIOR = 5.0               # speed before anything is known
SPEED_DECAY = 0.03                  # old jobs weigh for ever / noise
DRIFT_DECAY = 0.25                  # a host that became slower or faster is noticed late / one odd job counts as that
DRIFT_LIMIT = 0.45                  # (ln) noise rescales a host / smaller changes are learnt slowly
JOB_FIXED_S = 0.01                  # `a` of the cost: starting a compiler
SMALL_JOB_KB = 8                    # jobs below this say nothing about speed
RESIDUAL_CLIP = 4.0                 # one outlier moves the mean / changes are believed slowly
CONTENTION_PRIOR_JOBS = 8           # likewise for the slowdown by load
CLASS_PRIOR_JOBS = 8                # likewise for the class factors
SOURCES_REMEMBERED = 5000           # rebuilds forget / memory
FIGURES_REMEMBERED = 5000           # hosts that come again are unknown / memory, the state file
TRANSFER_FLOOR_S = 0.002            # shorter transfers are taken for this long
TRANSFER_SHARE_WARNED = 0.5         # status cries wolf / is silent about a slow link
TRANSFER_MIN_KB = 64                # smaller jobs say nothing about bandwidth
BANDWIDTH_PRIOR_KB_S = 50_000.0     # before it is measured
UNKNOWN_HOST_RESULTS = 3            # until so many results a host gets cores / 4 jobs at most
REFUSAL_MEMORY_S = 86_400.0         # how long (file, flags) go local after a remote mishap
REFUSALS_REMEMBERED = 5000          # of each user, as the next three: files are sent in vain / memory
FILES_REMEMBERED = 50_000           # headers are searched again / likewise
RECIPES_REMEMBERED = 200            # gcc's driver runs where it need not / likewise
COMPILERS_REMEMBERED = 100          # compilers are asked again what they are / likewise
LONG_COMMAND_BYTES = 8192           # gcc's driver runs where it need not, and flags are hashed / memory
PATH_BYTES = 4096                   # the kernel's own limit; what is longer is cut, or not remembered
DECISIONS_KEPT = 500                # `why` and the page forget early / memory
HISTORY_INTERVAL_S = 2.0            # the page shows no short peaks / it covers less time
HISTORY_KEPT = 450                  # samples: the page covers less time / memory, and a long JSON
STATE_SAVE_S = 60.0                 # writes for nothing / more is learnt anew after a crash
DRAIN_LIMIT_S = 9.0                 # jobs are cut off / service managers lose patience (they are told 10 s)
STOP_LIMIT_S = 20.0                 # after SIGTERM: what was learnt is lost / a daemon that hangs in spite of all stays
STATE_PATIENCE_S = 2.0              # the last save is given up on a slow disk / a hung one holds up the end
DISK_CHECK_S = 1.0                  # CPU / a full disk is noticed late
IDENTITY_CHECK_S = 10.0             # how often a server looks what compilers there are, and a client at its own, again:
                                    # CPU / one that was exchanged or added is found late
COMPILER_RETRY_S = 600.0            # one that does not answer -v is asked in 10, 20, 40 .. so many seconds: likewise

SPAWN_MESSAGE_BYTES = 256 << 10     # SO_SNDBUF asked for, and the largest request; wmem_max may allow less. Low: long
                                    # argv refused; high: needs that much contiguous kernel memory
SPAWN_START_S = 10                  # fork to "ready". Low: fails on a swapping box; high: a stuck start looks hung
SPAWN_STOP_S = 2.0                  # patience of stop() before SIGKILL. Low: folders left; high: slow shutdown
SHUTDOWN_S = 0.8                    # the spawner's own, for jobs to die; a process in D state must not hold it for ever
ORPHAN_S = 1.0                      # a job's end waits at most so long for processes that left its group
START_RETRY_S = 15.0                # a job fails because another's remains still fill the limit / it waits for nothing
CROWDED_S = 0.02                    # then tried again so often. Low: spins; high: starts late
SWEEP_S = 1                         # the main thread looks for orphans so often. Low: wake-ups; high: fork bombs last
RULES_REFRESH_S = 5                 # rules hold inodes, and ldconfig renames a new ld.so.cache into place. High:
                                    # libraries are not found for so long after it; low: 140 us more a job
NPROC_HEADROOM = 4096               # RLIMIT_NPROC counts a whole uid: low fails honest jobs, high lets a fork bomb grow
ADDRESS_SPACE_LEAST_MB = 2048       # RLIMIT_AS of a compiler, which goes elsewhere as out of memory: large sources that
ADDRESS_SPACE_RATIO = 4             # nothing was learnt of, and of what was admitted: come back / hostile ones take all
SPAWNER_ADDRESS_SPACE_BYTES = 512 << 20     # least RLIMIT_AS: the spawner lives under it too, 50 MB and 0.3 a job
THREAD_STACK_BYTES = 256 << 10      # a job thread is shallow; 8 MB each would only swell the address space
QUICK_REMOVE_FILES = 64             # more files, or a folder among them: the spawner removes them, not the daemon
RESULT_TEXT_BYTES = 400


# ==== 2. Ground =====================================================================================================
# Reasons and small records that all sections share. No IO.

# Why something was refused or done locally: the same name in log, statistics, `why`, `explain` and `status`, each with
# its text. LOCAL_REASONS join them.
REASONS = {
    # a server's refusals (LMNO)
    "draining": "the host takes no new jobs",
    "memory": "the host is short of memory",
    "disk": "the host is short of disk space",
    "not-allowed": "the host does not serve this address",
    "compiler-unknown": "the host does not offer this compiler",
    "mode": "the host cannot take this kind of job",
    "argument": "the host refuses an argument",
    "too-large": "the job is larger than the host takes",
    "version": "the host speaks another version",
    "lease-over": "the reservation lapsed before the job came",
    "overloaded": "the host has too many connections",
    "timeout": "the compile took longer than the host allows",
    "spawn": "the host could not start the compiler",
    "protocol": "what came is not the protocol",
    "bad-mac": "the host has another key, or one side has none (--secret-file)",
    "restarted": "the host has forgotten who asks, since a restart",
    "relayed": "the request came to another address than it was made for: NAT, or a relay between",
    "replayed": "the request was seen before",
    # what a submitter notices
    "connect": "the host cannot be reached",
    "silent": "the host went silent",
    "closed": "the host closed the connection",
    "stalled": "the host stopped in the middle",
    "garbage": "the host's answer makes no sense",
    "killed": "the compiler was killed there",
    "out-of-memory": "the compiler ran out of memory there",
    # why a distributable job ran locally
    "no-daemon": "no daemon answers on this box",
    "no-host": "no host is up that offers this compiler",
    "hosts-failed": "the hosts that were tried failed",
    "late": "it took far longer on its host than it does here, at the end of the build",
    "local-is-faster": "this box has a free core and the farm has none",
    "messages": "the compiler wrote messages, which need the sources",
    "compile-error": "the remote compile failed; done again here for its messages",
    "compiler-failed": "the remote compiler failed without a word about the source; done again here",
    "remembered": "this file with these flags went wrong remotely before",
    "preprocessor": "the preprocessor failed; done again here for its messages",
    "preprocessor-messages": "the preprocessor wrote messages, which are not taken apart from the compiler's",
    "environment": "an environment variable changes what the compiler does",
    "output-special": "the output is not replaced, but written into: a link, a device, or with a mode of its own",
    "compiler-script": "the compiler is a script, or a wrapper that has another one run",
    "compiler-silent": "the compiler or its assembler did not say just now what it is (-v)",
    "directives-only": "the source does not bear -fdirectives-only",
    "long-command": "the command line is too long to send",
    "client-version": "the client is of another version than the daemon: restart the daemon",
    "sessions": "this user has too many connections to the daemon",
    "other": "for a reason that the daemon does not know",
}

# No back-off for the host: the job is to blame.
BLAMELESS = frozenset(("lease-over", "argument", "compiler-unknown", "too-large", "mode", "timeout"))


def reason_text(name):
    """The sentence for a reason's name; the name itself where it is not in the table (a later version's)."""
    return REASONS.get(name, name)


class Endpoint(tuple):
    """(address, port) of a daemon or server; the address is in the text form of ipaddress, or a name not yet
    resolved."""
    __slots__ = ()

    def __str__(self):
        return ("[%s]:%d" if ":" in self[0] else "%s:%d") % self


class UsageError(Exception):
    """A value that a user gave is wrong; str() is the one line to print before exit status 2."""


class Layout:
    """struct.Struct by format, without importing struct before it is used: the client has no need of it."""
    __slots__ = ("format",)

    def __init__(self, format_):
        self.format = format_

    @property
    def size(self):
        return struct.calcsize(self.format)

    def pack(self, *values):
        return struct.pack(self.format, *values)

    def unpack_from(self, data):
        return struct.unpack_from(self.format, data)


# ==== 3. Wire =======================================================================================================
# Every format that crosses a socket, once: the encoder beside the decoder, with its limits. No IO; the client uses the
# tokens, the reply and the client messages.
#
# A decoder is a generator that yields how many bytes it needs next, is sent exactly these, and returns the message.
# `Decoder` drives one with bytes as they come, so a blocking client and the event loop share each format.

TOKEN_BYTES = 12
HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
PROTOCOL_MAJOR = 1
INSTANCE_BYTES = 8
IDENTITY_BYTES = 8
MODE_PLAIN, MODE_DIRECTIVES = 0, 1
MODE_NAMES = ("plain", "directives")


class WireError(Exception):
    """What came is not the protocol; str() says what was wrong."""


class TooLarge(WireError):
    """More than the reader is ready to take."""


class OtherVersion(WireError):
    """It is of another major version of our own formats: `version`."""

    def __init__(self, what, version):
        super().__init__("%s of version %d, this daemon speaks %d" % (what, version, PROTOCOL_MAJOR))
        self.version = version


def token(name, value, body=b""):
    """A distcc token: four letters, a 32-bit value in hex, and the body, if any (`../distcc` doc/protocol-1)."""
    return b"%s%08x%s" % (name, value, body)


def body_token(name, body):
    return b"%s%08x%s" % (name, len(body), body)


def parse_token(header):
    """(name, value) of a token's 12 bytes. Strict: distcc itself also takes blanks and 0x."""
    if not HEX_DIGITS.issuperset(header[4:]) or not header[:4].isalnum():
        raise WireError("no token: %r" % bytes(header))
    return bytes(header[:4]), int(header[4:], 16)


class Decoder:
    """Feeds a decoding generator. `done` once it returned; then `result` holds the message, and rest() what is over."""
    __slots__ = ("generator", "buffer", "need", "done", "result")

    def __init__(self, generator):
        self.generator, self.buffer, self.done, self.result = generator, bytearray(), False, None
        self.need = next(generator)

    def feed(self, data=b""):
        """Take bytes; true once the message is whole. Raises WireError."""
        buffer = self.buffer
        buffer += data
        while not self.done and len(buffer) >= self.need:
            piece = bytes(buffer[:self.need])
            del buffer[:self.need]
            try:
                self.need = self.generator.send(piece)
            except StopIteration as end:
                self.done, self.result = True, end.value
        return self.done

    def missing(self):
        """How many bytes must come before the generator can go on."""
        return max(0, self.need - len(self.buffer))

    def rest(self):
        rest = bytes(self.buffer)
        self.buffer.clear()
        return rest


def take_token(name, most=0xffffffff):
    """Sub-generator: the value of the token `name`, which must come now."""
    got, value = parse_token((yield TOKEN_BYTES))
    if got != name:
        raise WireError("%s instead of %s" % (got.decode("latin-1"), name.decode()))
    if value > most:
        raise WireError("%s of %d, over %d" % (name.decode(), value, most))
    return value


def take_body(name, most):
    """Sub-generator: the body of the token `name`."""
    size = yield from take_token(name, most)
    return (yield size) if size else b""


# ---- LZO1X, the bodies of distcc's protocol 2 (`,lzo`): one block each, without a header or its unpacked size. We send
# literals only: legal, and what a compressor in Python would take for one file the link carries ten in.

LZO_WINDOW = 0xbfff                 # how far back a match may reach
LZO_END = b"\x11\0\0"
LZO_ZEROS = bytes(4096)             # of a long length, looked at together


def lzo_head(size):
    """What precedes `size` > 0 literals; LZO_END follows them."""
    if size <= 238:
        return bytes((size + 17,))
    zeros, last = divmod(size - 19, 255)
    return bytes(zeros + 1) + bytes((last + 1,))


def lzo_size(size):
    """Bytes of the block that carries so many literals; none are sent as no block at all."""
    return size and len(lzo_head(size)) + size + len(LZO_END)


def lzo_block(text):
    return text and lzo_head(len(text)) + text + LZO_END


class LzoOutput:
    """What lzo_unpack() has made: handed to `write` in blocks, and refused beyond `most` bytes."""
    __slots__ = ("out", "total", "most", "write")

    def __init__(self, write, most):
        self.out, self.total, self.most, self.write = bytearray(), 0, most, write

    def flush(self, keep=LZO_WINDOW):
        """All but what a match may still refer to."""
        cut = max(0, len(self.out) - keep)
        self.total += cut
        if self.total > self.most:
            raise TooLarge("LZO: more than %d bytes" % self.most)
        self.write(self.out[:cut])
        del self.out[:cut]

    def literals(self, data, at, count):
        for begin in range(at, at + count, LZO_BLOCK_BYTES):
            self.out += data[begin:min(begin + LZO_BLOCK_BYTES, at + count)]
            if len(self.out) > LZO_BLOCK_BYTES:
                self.flush()
        if at + count > len(data):
            raise IndexError

    def repeat(self, distance, count):
        """A match that reaches into what it makes. A byte of input asks for 255: so in pieces, and each counted."""
        piece = self.out[-distance:] * (65536 // distance + 1)
        while count > len(piece):
            self.out += piece
            count -= len(piece)
            if len(self.out) > LZO_BLOCK_BYTES:
                self.flush()
        self.out += piece[:count]


def lzo_long(data, at, base):
    """(length, index of what follows) where the length's own bits are 0: each zero byte counts 255."""
    begin = at
    while not data[at]:
        at += len(LZO_ZEROS) if data[at:at + len(LZO_ZEROS)] == LZO_ZEROS else 1    # 16 MB: 15 ms for 1.2 s
    return (at - begin) * 255 + base + data[at], at + 1


def lzo_instructions(data, at, state, output):
    """Decode until about LZO_BLOCK_BYTES are held: (index, state). state: literals just copied, 4 for a run of them,
    -1 at the end. 30 MB/s: a slice a match, and no call but for what is rare."""
    out = output.out
    end = len(out)
    while end < LZO_BLOCK_BYTES:
        t = data[at]
        at += 1
        if t >= 64:
            distance, count = (data[at] << 3) + (t >> 2 & 7) + 1, (t >> 5) + 1
            at += 1
        elif t >= 16:
            mask = 31 if t >= 32 else 7
            count = t & mask
            if not count:
                count, at = lzo_long(data, at, mask)
            count += 2
            distance = (data[at] >> 2 | data[at + 1] << 6) + 1
            if t < 32:
                distance += 16383 + ((t & 8) << 11)
                if distance == 16384:
                    return at + 2, -1
            t = data[at]
            at += 2
        elif not state:
            count = t + 3
            if not t:
                count, at = lzo_long(data, at, 18)
            output.literals(data, at, count)
            at, state, end = at + count, 4, len(out)
            continue
        else:
            count = 2 if state < 4 else 3
            distance = (data[at] << 2) + (t >> 2) + (1 if state < 4 else 2049)
            at += 1
        state = t & 3
        if distance > end:
            raise WireError("LZO: a match from before the beginning")
        if count <= distance:
            out += out[end - distance:end - distance + count]
            end += count
        else:
            output.repeat(distance, count)
            end = len(out)
        if state:
            out += data[at:at + state]
            at += state
            end += state
    return at, state


def lzo_unpack(data, write, most):
    """Unpack a whole block to write(bytes); how many bytes came out. WireError for what is no LZO1X, or over `most`.
    `data`: bytes or a mmap. Time and memory are bounded by len(data) + `most`, and by a few blocks."""
    output, at, state = LzoOutput(write, most), 0, 0
    try:
        if data[0] > 17:
            count = data[0] - 17
            output.literals(data, 1, count)
            at, state = count + 1, min(count, 4)
        while state >= 0:
            at, state = lzo_instructions(data, at, state, output)
            output.flush(LZO_WINDOW if state >= 0 else 0)
    except IndexError:
        raise WireError("LZO: cut short") from None
    if at != len(data):
        raise WireError("LZO: %d bytes behind the end" % (len(data) - at))
    return output.total


def lzo_text(data, most):
    """A short body, unpacked; none is no block."""
    parts = []
    if data:
        lzo_unpack(data, parts.append, most)
    return b"".join(parts)


# ---- a job, as a server reads it

class JobRequest:
    """What precedes a job's source: protocol version, argv as bytes, and the source's size in bytes, as sent."""
    __slots__ = ("version", "argv", "size")

    def __init__(self, version, argv, size):
        self.version, self.argv, self.size = version, argv, size


def encode_argv(argv, version=1):
    return b"".join([token(b"DIST", version), token(b"ARGC", len(argv))] + [body_token(b"ARGV", word) for word in argv])


def encode_size(size, version=1):
    """What precedes the source: `size` bytes, in protocol 2 with LZO_END behind them."""
    if version == 2:
        return token(b"DOTI", lzo_size(size)) + (lzo_head(size) if size else b"")
    return token(b"DOTI", size)


def encode_job(argv, size, version=1):
    """All of a request but the source itself."""
    return encode_argv(argv, version) + encode_size(size, version)


def decode_job(version=None):
    """Generator for a JobRequest; `version` where the DIST token was read already. The source follows and is not
    read."""
    if version is None:
        version = yield from take_token(b"DIST")
    if version not in (1, 2):
        name = " (pump mode: take ,cpp out of DISTCC_HOSTS)" if version == 3 else ""
        raise WireError("distcc protocol %d%s is not served, only 1 and 2" % (version, name))
    count = yield from take_token(b"ARGC", MAX_ARGUMENTS)
    argv, total = [], 0
    for _ in range(count):
        argv.append((yield from take_body(b"ARGV", MAX_ARGUMENT_BYTES)))
        total += len(argv[-1]) + 1
        if total > MAX_ARGV_BYTES:
            raise WireError("a command line over %d bytes" % MAX_ARGV_BYTES)
    if not argv or any(b"\0" in word for word in argv):
        raise WireError("no command line" if not argv else "a NUL in an argument")
    size = yield from take_token(b"DOTI")
    return JobRequest(version, argv, size)


class Times:
    """A server's own measurements of a job (token TIME): milliseconds, KB, and the mean number of jobs that ran
    there."""
    __slots__ = ("queue_ms", "elapsed_ms", "cpu_ms", "peak_kb", "concurrency")

    def __init__(self, queue_ms=0, elapsed_ms=0, cpu_ms=0, peak_kb=0, concurrency=1.0):
        self.queue_ms, self.elapsed_ms, self.cpu_ms = queue_ms, elapsed_ms, cpu_ms
        self.peak_kb, self.concurrency = peak_kb, concurrency


    def figures(self):
        """As they are sent: whole numbers, concurrency in hundredths."""
        return self.queue_ms, self.elapsed_ms, self.cpu_ms, self.peak_kb, int(self.concurrency * 100)


def encode_times(times):
    return body_token(b"TIME", b"%d %d %d %d %d" % times.figures())


def decode_times():
    """Generator for Times; later versions may append numbers."""
    numbers = (yield from take_body(b"TIME", 256)).split()
    if len(numbers) < 5 or not all(number.isdigit() and len(number) <= 12 for number in numbers[:5]):
        raise WireError("TIME without its five numbers")
    return Times(*(int(number) for number in numbers[:4]), concurrency=int(numbers[4]) / 100)


class Reply:
    """A server's answer up to the object, which follows with `size` bytes. `refusal` (name, text) if it is an LMNO."""
    __slots__ = ("status", "stderr", "stdout", "size", "refusal")

    def __init__(self, status=0, stderr=b"", stdout=b"", size=0, refusal=None):
        self.status, self.stderr, self.stdout, self.size, self.refusal = status, stderr, stdout, size, refusal


def encode_reply(status, stderr, stdout, size, version=1):
    """A reply up to the object, which follows: `size` bytes, in protocol 2 with LZO_END behind them. `status` is a raw
    wait status."""
    head = b""
    if version == 2:
        stderr, stdout, head = lzo_block(stderr), lzo_block(stdout), lzo_head(size) if size else b""
        size = lzo_size(size)
    return b"".join((token(b"DONE", version), token(b"STAT", status), body_token(b"SERR", stderr),
                     body_token(b"SOUT", stdout), token(b"DOTO", size), head))


def decode_reply(version=1):
    """Generator for a Reply. The object follows and is not read; in protocol 2 it is LZO, and `size` is as sent."""
    name, value = parse_token((yield TOKEN_BYTES))
    if name == b"LMNO":
        if value > MAX_LOAD_REQUEST_BYTES:
            raise WireError("an LMNO of %d bytes" % value)
        return Reply(refusal=parse_refusal((yield value)))
    if name != b"DONE" or value != version:
        raise WireError("%s %d instead of DONE %d" % (name.decode("latin-1"), value, version))
    status = yield from take_token(b"STAT", 0xffff)
    stderr = yield from take_body(b"SERR", 64 * MAX_MESSAGE_BYTES)
    stdout = yield from take_body(b"SOUT", 64 * MAX_MESSAGE_BYTES)
    if version == 2:
        stderr, stdout = (lzo_text(text, 64 * MAX_MESSAGE_BYTES) for text in (stderr, stdout))
    size = yield from take_token(b"DOTO")
    return Reply(status, stderr, stdout, size)


# ---- admission, between our daemons

NOT_COMPRESSED, ZLIB = 0, 1         # of the source alone: objects are a tenth of what travels
CHALLENGE_BYTES = 8
MAC_BYTES = 16                      # of HMAC-SHA256


class SlotRequest:
    """LMRQ: a submitter asks for one slot, for whichever job of this (uid, identity, mode) it will be. With a secret
    its MAC covers all of it, among it the server's challenge, a counter, and the address that was dialled: a request
    cannot be sent twice, nor on to another host."""
    __slots__ = ("instance", "uid", "size_kb", "memory_mb", "identity", "mode", "job_class", "compression", "counter",
                 "challenge", "dialled", "covered", "mac")
    # version, flags, instance, uid, KB, MB, identity, mode, compression, counter, size of the seal that follows:
    # challenge, MAC, address
    FORMAT = "!BB8sIII8sBBQB"

    def __init__(self, instance, uid, size_kb, memory_mb, identity, mode, job_class, compression=NOT_COMPRESSED):
        self.instance, self.uid, self.size_kb, self.memory_mb = instance, uid, size_kb, memory_mb
        self.identity, self.mode, self.job_class, self.compression = identity, mode, job_class, compression
        self.counter, self.challenge, self.dialled, self.covered, self.mac = 0, b"", b"", b"", b""

    def encode(self, seal=None):
        """seal(bytes): the MAC; with one, counter, challenge and dialled have been set."""
        size = CHALLENGE_BYTES + MAC_BYTES + len(self.dialled) if seal else 0
        fixed = struct.pack(self.FORMAT, PROTOCOL_MAJOR, 0, self.instance, self.uid, min(self.size_kb, 0xffffffff),
                            min(self.memory_mb, 0xffffffff), self.identity, self.mode, self.compression, self.counter,
                            size)
        job_class = self.job_class.encode()[:64]
        if not seal:
            return body_token(b"LMRQ", fixed + job_class)
        self.covered = fixed + self.challenge + self.dialled + job_class
        self.mac = seal(self.covered)
        return body_token(b"LMRQ", fixed + self.challenge + self.mac + self.dialled + job_class)

    @classmethod
    def parse(cls, body):
        size = struct.calcsize(cls.FORMAT)
        if len(body) < size:
            raise WireError("an LMRQ of %d bytes" % len(body))
        version, _, instance, uid, size_kb, memory_mb, identity, mode, compression, counter, sealed = struct.unpack(
            cls.FORMAT, body[:size])
        if version != PROTOCOL_MAJOR:
            raise OtherVersion("an LMRQ", version)
        if mode >= len(MODE_NAMES):
            raise WireError("mode %d is unknown" % mode)
        job_class, _, _ = body[size + sealed:].partition(b"\0")      # later versions may append more
        request = cls(instance, uid, size_kb, memory_mb, identity, mode, job_class.decode("ascii", "replace"),
                      ZLIB if compression == ZLIB else NOT_COMPRESSED)
        at, end = size + CHALLENGE_BYTES, size + CHALLENGE_BYTES + MAC_BYTES
        if sealed >= CHALLENGE_BYTES + MAC_BYTES and len(body) >= size + sealed:
            request.counter, request.challenge, request.mac = counter, body[size:at], body[at:end]
            request.dialled, request.covered = body[end:size + sealed], body[:at] + body[end:]
        return request


def decode_opening(plain=True):
    """Generator for what a server reads first: a SlotRequest (one of our daemons) or, with `plain`, a JobRequest (a
    distcc client)."""
    name, value = parse_token((yield TOKEN_BYTES))
    if name == b"LMRQ":
        if value > MAX_LOAD_REQUEST_BYTES:
            raise WireError("an LMRQ of %d bytes" % value)
        return SlotRequest.parse((yield value))
    if name != b"DIST":
        raise WireError("a connection that begins with %r" % name)
    if not plain:
        raise WireError("distcc clients have no key: not served (--plain)")
    return (yield from decode_job(value))


def encode_granted(reservation, compression=NOT_COMPRESSED, seal=None):
    """seal(bytes): the MAC by which the server proves that it has the key, too."""
    body = b"%d %d" % (reservation, compression)
    return body_token(b"LMOK", body + b"\0" + seal(body) if seal else body)


def encode_parked(position, wait_ms):
    return body_token(b"LMWT", b"%d %d" % (position, wait_ms))


def encode_refused(name, text=""):
    return body_token(b"LMNO", (name + "\0" + (text or reason_text(name))).encode("utf-8", "replace")[:900])


def parse_refusal(body):
    """(name, text) of an LMNO; only printable characters are kept, since the text is shown to users."""
    name, _, text = body.decode("utf-8", "replace").partition("\0")
    clean = ["".join(c for c in part if c.isprintable())[:200] for part in (name, text)]
    return clean[0] or "refused", clean[1]


def decode_admission():
    """Generator for one answer to an LMRQ: ("granted", reservation, compression) and, with a MAC, (…, what it covers,
    MAC); ("parked", position, wait_ms) or ("refused", name, text)."""
    name, size = parse_token((yield TOKEN_BYTES))
    if name not in (b"LMOK", b"LMWT", b"LMNO") or size > MAX_LOAD_REQUEST_BYTES:
        raise WireError("%s of %d bytes in answer to LMRQ" % (name.decode("latin-1"), size))
    body = (yield size) if size else b""
    if name == b"LMNO":
        return ("refused",) + parse_refusal(body)
    body, sealed, mac = body.partition(b"\0")
    numbers = body.split()
    if len(numbers) < (1 if name == b"LMOK" else 2) or not all(number.isdigit() for number in numbers):
        raise WireError("%s without its numbers" % name.decode())
    if name == b"LMOK":
        compression = int(numbers[1]) if numbers[1:] else NOT_COMPRESSED
        return ("granted", int(numbers[0]), compression) + ((body, mac) if sealed else ())
    return "parked", int(numbers[0]), int(numbers[1])


# ---- load packets

PACKET_MAGIC = b"dlm\x01"
STATE_UP, STATE_BUSY, STATE_DRAINING, STATE_SHORT = 0, 1, 2, 3      # SHORT: of memory or disk
CAN_DIRECTIVES, CAN_LANDLOCK, CAN_USER, WANTS_REPORT, WANTS_ECHO = 1, 2, 4, 8, 16   # capability bits


SEAL_MARK = bytes((1, CHALLENGE_BYTES + MAC_BYTES))                 # a list of one item


def unseal(packet):
    """(what the MAC covers, MAC) of a load packet; the MAC is empty where it has none."""
    if packet[-MAC_BYTES - CHALLENGE_BYTES - 2:][:2] != SEAL_MARK:
        return packet, b""
    return packet[:-MAC_BYTES], packet[-MAC_BYTES:]


class Load:
    """A daemon's report of itself. One field a line below: unit, and who uses it."""
    __slots__ = (
        "instance",         # 8 random bytes chosen at each start; own broadcasts and restarts are told by it
        "boot",             # 16 bytes of the kernel's boot id: daemons under one kernel
        "sequence",         # counts up; an older packet is ignored
        "port",             # TCP port for jobs, 0: serves nobody
        "cores", "slots", "running", "waiting",
        "foreign",          # runnable tasks that are not the daemon's, in tasks (hundredths on the wire)
        "memory_mb",        # available
        "state",            # STATE_*
        "capabilities",     # CAN_*
        "interval_ms",      # the sender's present interval; 3 of them without a packet mean down
        "kb_sum", "cpu_ms_sum",     # its own speed, decayed sums
        "identities",       # compilers, 8 bytes each
        "counted",          # {instance of a submitter: highest reservation that `running` includes}
        "kin",              # {instance: jobs running} of other daemons under the sender's kernel
        "challenge",        # with a secret: what the sender wants to see echoed, and named in requests to it
        "echoes",           # challenges of others that asked for it: the sender lives now
        "version",          # of the sender's program, for people; "" where it does not say
    )
    FORMAT = "!4sBBH8s16sIHHHHHHIBBHff"
    ITEM = "!8sQ"
    KIN = "!8sH"
    COUNTED_MOST = 20                   # in a packet: those that got a slot last

    def __init__(self, instance=bytes(INSTANCE_BYTES), boot=bytes(16), sequence=0, port=0, cores=0, slots=0, running=0,
                 waiting=0, foreign=0.0, memory_mb=0, state=STATE_UP, capabilities=0, interval_ms=0, kb_sum=0.0,
                 cpu_ms_sum=0.0, identities=(), counted=None, kin=None, version=""):
        self.instance, self.boot, self.sequence, self.port = instance, boot, sequence, port
        self.cores, self.slots, self.running, self.waiting = cores, slots, running, waiting
        self.foreign, self.memory_mb, self.state, self.capabilities = foreign, memory_mb, state, capabilities
        self.interval_ms, self.kb_sum, self.cpu_ms_sum = interval_ms, kb_sum, cpu_ms_sum
        self.identities, self.counted, self.kin = list(identities), counted or {}, kin or {}
        self.challenge, self.echoes = b"", []
        self.version = version

    def encode(self, seal=None):
        """At most UDP_MAX_BYTES; the lists are cut to fit, identities first to stay. seal(bytes): the MAC, which with
        the challenge is the last list."""
        head = struct.pack(self.FORMAT, PACKET_MAGIC, PROTOCOL_MAJOR, 0, struct.calcsize(self.FORMAT), self.instance,
                           self.boot, self.sequence & 0xffffffff, self.port, min(self.cores, 65535),
                           min(self.slots, 65535), min(self.running, 65535), min(self.waiting, 65535),
                           min(int(self.foreign * 100), 65535), min(int(self.memory_mb), 0xffffffff), self.state,
                           self.capabilities, min(int(self.interval_ms), 65535), self.kb_sum, self.cpu_ms_sum)
        lists = [self.identities[:60],
                 [struct.pack(self.ITEM, *item)
                  for item in list(self.counted.items())[-self.COUNTED_MOST:]],
                 [struct.pack(self.KIN, instance, min(n, 65535)) for instance, n in list(self.kin.items())[:10]]]
        lists.append([self.version.encode("ascii", "replace")[:20]] if self.version else [])
        lists += [self.echoes[:4]] if seal else []
        packet = head + b"".join(struct.pack("!BB", len(items), len(items[0]) if items else 0) + b"".join(items)
                                 for items in lists)
        if seal:
            packet += SEAL_MARK + self.challenge
            packet += seal(packet)
        assert len(packet) <= UDP_MAX_BYTES
        return packet

    @classmethod
    def parse(cls, packet):
        """Raises WireError. Fields that a later minor version adds to the header, and lists it appends, are skipped."""
        size = struct.calcsize(cls.FORMAT)
        if packet[:4] == PACKET_MAGIC and packet[4:] and packet[4] != PROTOCOL_MAJOR:
            raise OtherVersion("a load report", packet[4])
        if len(packet) < size or len(packet) > UDP_MAX_BYTES or packet[:4] != PACKET_MAGIC:
            raise WireError("no load packet")
        values = struct.unpack(cls.FORMAT, packet[:size])
        load = cls(*values[4:])
        load.foreign /= 100
        if not (0 <= load.kb_sum < 1e12 and 0 <= load.cpu_ms_sum < 1e15):       # NaN and infinities fail this too
            raise WireError("a load packet with a mad speed")
        lists, at = [], values[3]
        while len(lists) < 4:
            if at + 2 > len(packet) or at < size:
                raise WireError("a load packet cut short")
            count, width = packet[at], packet[at + 1]
            at += 2
            if at + count * width > len(packet):
                raise WireError("a load packet cut short")
            lists.append([packet[at + i * width:at + (i + 1) * width] for i in range(count)])
            at += count * width
        load.take_lists(lists)
        if unseal(packet)[1]:
            load.challenge = packet[-MAC_BYTES - CHALLENGE_BYTES:-MAC_BYTES]
            if packet[at + 1:at + 2] == bytes((CHALLENGE_BYTES,)):
                echoes = packet[at + 2:at + 2 + packet[at] * CHALLENGE_BYTES]
                load.echoes = [echoes[i:i + CHALLENGE_BYTES] for i in range(0, len(echoes) - 7, CHALLENGE_BYTES)]
        return load

    def take_lists(self, lists):
        widths = (IDENTITY_BYTES, struct.calcsize(self.ITEM), struct.calcsize(self.KIN))
        for items, width in zip(lists, widths):
            if items and len(items[0]) < width:
                raise WireError("a load packet with items too short")
        self.identities = [item[:widths[0]] for item in lists[0]]
        self.counted = dict(struct.unpack(self.ITEM, item[:widths[1]]) for item in lists[1])
        self.kin = dict(struct.unpack(self.KIN, item[:widths[2]]) for item in lists[2])
        self.version = lists[3][0][:20].decode("ascii", "replace") if lists[3] else ""

    def counted_of(self, instance):
        """The highest reservation of this submitter that `running` includes. Of one that is not
        named in a full list that is any: others have got slots since."""
        return self.counted.get(instance, math.inf if len(self.counted) >= self.COUNTED_MOST else 0)


# ---- client messages on the unix socket: a token whose body is fields joined by NUL
#
#   client to daemon   HELO version, "cc", source, output, job class, stamp of the source, flags, compiler key,
#                      no plain distccd (1) + never here (2), -fdirectives-only is possible (0|1), cwd,
#                      shape of stage 1 (Command.shape)
#                      HELO version, "local", reason, compiles (0|1), source       a command that is not distributed
#                      HELO version, "status" | "jobs" | "why" | "drain", argument
#                      HELO version, "probe", host, identity, size in KB           a slot there for `check`
#                      IDNT identity in hex, or empty: it is a script              after a TURN that asked for it
#                      SEEN file keys, 16 hex digits each                          which of these must I look into?
#                      SIZE bytes, preprocessing ms, mode, plain files, odd files, recipe, digest of the text or ""
#                           preprocessed, ends the turn; keys of files that were looked into; "-": there is no recipe
#                      FAIL reason, text, host                                     that host failed: another one, please
#                      HOME reason, hold (0|1), host or "", digest of the text or ""
#                           gives up the farm: a local slot, please; hold: as in LOCL
#                      DONE outcome, bytes out, bytes in, total ms, queue, elapsed, cpu ms, peak KB, concurrency * 100,
#                           host. outcome: ok; failed (a compile error, shown as it came); local-ok, local-failed (after
#                           LOCL with hold); all else only with ok, the server's own figures -1 where it gave none. The
#                           host as in the SOCK that this is about: the next may have crossed this
#   daemon to client   WAIT what                                                   an answer comes later
#                      TURN mode, identity wanted (0|1), recipe, digest of the text wanted (0|1)
#                                                                                  preprocess now; "?": make a recipe
#                      FILE odd (0|1), numbers of unknown files                    in answer to SEEN
#                      SOCK host, kind, mode, microseconds of a probe  + the socket    send the job there; kind:
#                                                                                  peer, peer,zlib, distccd, distccd,lzo
#                      PARK                                                        to a probe: all slots are taken
#                      LOCL reason, hold (0|1)              run it here; hold: keep this connection until it ends
#                      PING                                                        still here
#                      JSON text                                                   answer to status, jobs, why, drain
#                      NOPE text                       not allowed, not understood, too many: do without the daemon

CLIENT_VERSION = b"3"


def encode_fields(name, *fields):
    """A client message; fields are bytes, str (surrogateescape) or int."""
    parts = [f if isinstance(f, bytes) else (f if isinstance(f, str) else str(f)).encode("utf-8", "surrogateescape")
             for f in fields]
    return body_token(name, b"\0".join(parts))


def decode_fields(most=MAX_CLIENT_MESSAGE_BYTES):
    """Generator for one client message: (name, [fields as bytes])."""
    name, size = parse_token((yield TOKEN_BYTES))
    if size > most:
        raise WireError("%s of %d bytes" % (name.decode("latin-1"), size))
    body = (yield size) if size else b""
    return name, body.split(b"\0") if body else []


def plain_address(address):
    """The text form that all comparisons use: IPv4 where an IPv6 address only maps one, no zone."""
    if ":" not in address:
        return address
    ip = ipaddress.ip_address(address.partition("%")[0])
    return str(ip.ipv4_mapped or ip)


# ---- host lists, in the grammar of DISTCC_HOSTS (distcc(1), HOST SPECIFICATIONS)

def parse_endpoint(text, default_port=DEFAULT_PORT):
    """Endpoint of HOST, HOST:PORT, ADDRESS6, [ADDRESS6] or [ADDRESS6]:PORT. Raises UsageError."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise UsageError("%r is not [ADDRESS]:PORT" % text)
        port = port[1:]
    elif text.count(":") == 1:
        host, port = text.split(":")
    if not host or any(c.isspace() or not c.isprintable() for c in host):
        raise UsageError("%r names no host" % text)
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError("%r: the port must be a number up to 65535" % text)
    return Endpoint((host, int(port) if port else default_port))


class HostEntry:
    """One plain distccd server of a host list; `lzo`: it is to be spoken to in protocol 2."""
    __slots__ = ("endpoint", "slots", "lzo", "word")

    def __init__(self, endpoint, slots, lzo, word):
        self.endpoint, self.slots, self.lzo, self.word = endpoint, slots, lzo, word


class HostList:
    """What DISTCC_HOSTS or a hosts file says. Limits are None where it says nothing of them."""
    __slots__ = (
        "entries",          # HostEntry, in their order
        "warnings",         # sentences: what cannot be done, and the way round it
        "localhost",        # distributable jobs that may run here at once
        "localslots", "localslots_cpp",     # other local jobs, and preprocessors, at once
    )
    TUNNEL = "open an ssh tunnel (ssh -fNL 3633:localhost:3632 HOST) and list its end, 127.0.0.1:3633"

    def __init__(self, text=""):
        """Raises UsageError for what distcc would not take either: then it uses none of the list."""
        self.entries, self.warnings = [], []
        self.localhost = self.localslots = self.localslots_cpp = None
        for line in text.splitlines():
            for word in line.partition("#")[0].split():
                self.take(word)

    def take(self, word):
        if word.startswith("--"):
            return self.option(word)
        body, *options = word.split(",")
        names = {"auth" if option.startswith("auth=") else option for option in options}
        if names - {"cpp", "lzo", "auth", "down"}:
            raise UsageError("%r: unknown option %r" % (word, min(names - {"cpp", "lzo", "auth", "down"})))
        if "@" in body:
            self.warnings.append("%s: ssh hosts are not used; %s" % (word, self.TUNNEL))
        elif word == "+zeroconf":
            self.warnings.append("+zeroconf is not used; --use NET finds daemons of ours, others must be listed")
        elif body.replace("=", "/").split("/")[0] == "localhost":
            self.localhost = self.slots(word, body.replace("=", "/").partition("/")[2]) if body != "localhost" else None
        else:
            self.host(word, body, names)
        return None

    def host(self, word, body, names):
        slots, separator = "4", "/" if "/" in body else "="
        if separator in body:
            host, _, rest = body.partition(separator)
            slots, colon, port = rest.partition(":")
            body = host + colon + port
        entry = HostEntry(parse_endpoint(body), self.slots(word, slots), "lzo" in names, word)
        if "auth" in names:
            self.warnings.append("%s: servers that want authentication are not used; %s" % (word, self.TUNNEL))
        elif "down" not in names:                   # lsdistcc -x writes that
            self.entries.append(entry)
            if "cpp" in names:
                self.warnings.append("%s: used without pump mode (,cpp)" % word)

    def option(self, word):
        name, separator, value = word[2:].partition("=")
        if name in ("localslots", "localslots_cpp") and separator:
            setattr(self, name, self.slots(word, value))
        elif word != "--randomize":                 # hosts are weighed, and their order says nothing
            raise UsageError("%r: unknown option" % word)

    @staticmethod
    def slots(word, text):
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
            raise UsageError("%r: the number of slots must be from 1 to 9999" % word)
        return int(text)


# ---- where a daemon's unix socket is

SYSTEM_SOCKET = "/run/distcc_lm/socket"


def default_sockets(uid, environ):
    """Paths in the order of search: the user's own daemon's, then the system's. The first is where a daemon of this uid
    listens by default. The environment of a build is not that of the daemon's start: TMPDIR says nothing here, and
    XDG_RUNTIME_DIR, which cron and package builders lack, not all."""
    if uid == 0:
        return (SYSTEM_SOCKET,)
    runtime, private = environ.get("XDG_RUNTIME_DIR"), "/tmp/distcc_lm-%d/socket" % uid
    if runtime:
        return runtime + "/distcc_lm.socket", private, SYSTEM_SOCKET
    return private, "/run/user/%d/distcc_lm.socket" % uid, SYSTEM_SOCKET


# ==== 4. Commands ===================================================================================================
#
# analyze() reads a command line once, from left to right, by the tables below, and gives a Command (the argument list
# of each step and the files named) or raises RunLocally with a named reason. serve_args() is the server's own, stricter
# table.
#
# A compile is cut in two where gcc itself cuts it:  stage 1, here:  COMPILER first... -E SOURCE            -> text
#                                                    stage 2, there: COMPILER second... -x KIND -c NAME     -> object
# So each option belongs to stage 1, to stage 2, to both, or to neither; or it keeps the command here. An option that is
# not in the tables keeps it here too: a wrong guess would change an object, a needless local compile costs only time.

# -- reasons -----------------------------------------------------------------------------------------------------------

LOCAL_REASONS = {
    # the command does not compile one source to one object or assembler file
    "link": "neither -c nor -S: links, or compiles and links",
    "query": "asks the compiler something and compiles nothing",
    "preprocess": "-E: preprocesses only",
    "dependencies": "-M or -MM: writes dependencies only",
    "syntax-only": "-fsyntax-only: there is no object to fetch",
    "several-inputs": "more than one input file",
    "no-input": "no input file",
    "stdin": "the source comes from standard input",
    "stdout": "the output or the dependencies go to standard output",
    "two-outputs": "-o is given twice, an error in gcc",
    "same-file": "the source, the output or the dependency file are the same file",
    "missing-value": "the last option lacks its value",
    # what cannot be sent
    "suffix": "the suffix says no language that is sent",
    "language": "a language that is not sent",
    "assembler": "assembler source without preprocessing reads what .include names",
    "assembler-debug": "debug information made by the assembler names the folder it runs in",
    "pch": "makes or uses a precompiled header",
    "modules": "modules read and write files beside the source",
    "offload": "compiles for several targets in one call",
    "multiple-arch": "several -arch make several objects",
    "conftest": "a test program of configure: small, and its messages are the result",
    "at-file": "an @file that cannot be read here",
    "preprocessed-dependencies": "dependencies of a source that is preprocessed already",
    "preprocessed-folder": "-g or -flto, and the preprocessed source does not name its folder",
    "preprocessed-warning": "clang warns here of options that are without use for a preprocessed source",
    # the answer depends on this machine or on files that stay here
    "native": "-march=native and its kin mean the processor of this machine",
    "profile": "profiles and coverage read or write files named after the object",
    "comments": "clang reads comments, which preprocessed text has not",
    "needs-source": "the object or the assembler text quotes the source files",
    "debug-text": "-S with -g: labels and columns of the text would be other ones",
    "debug-source": "debug information by what preprocessed text lacks: macros, the source's name",
    "folder-name": "the object would name another folder: odd characters in it, or it is mapped to nothing",
    "sanitizer": "sanitizers, and clang's OpenMP with -g, write columns into the object: preprocessed text has others",
    "records-command": "the object holds the command line",
    "reads-file": "an option that makes the compiler proper read a further file",
    # more comes out than an object
    "split-dwarf": "-gsplit-dwarf writes a .dwo file beside the object",
    "save-temps": "-save-temps keeps the files between the steps",
    "side-file": "writes a further file beside the object",
    "dump": "dumps the compiler's insides to files or into the output",
    "listing": "an assembler listing, dependency file or statistics",
    "repository": "-frepo keeps a repository of templates beside the object",
    "report": "the compiler reports on its own work",
    "verbose": "shows the steps or the included files",
    "cpp-output": "changes the preprocessor's output or order of steps",
    "diagnostics-format": "machine-readable messages are one document about both stages",
    "other-result": "something else than an object comes out",
    # a program or its parts are replaced
    "plugin": "a compiler plug-in",
    "specs": "specs rewrite the compiler's own rules",
    "wrapper": "-wrapper runs another program round each step",
    "toolchain": "names other compiler parts, version or configuration",
    # further options whose effect on stage 2 is not known
    "assembler-option": "an assembler option that is not in the table",
    "preprocessor-option": "an option for the preprocessor proper that is not in the table",
    "dependency-form": "dependency options in a form that cannot be redirected",
    "cc1-option": "an option for clang's inner compiler that is not in the table",
    "option": "an option that is not in the table",
    "value": "an option with a value that servers do not accept",
    # from the environment, and from the preprocessed text
    "environment": "an environment variable changes what the compiler is or does",
    "incbin": "the assembler would read a file that stays here (.incbin, .include)",
    "target-pragma": "#pragma GCC target or optimize changes macros in one stage only",
    "place": "a builtin function for lines, columns or file names: those of preprocessed text are others",
    "include-warning": "clang warns of it only in an included file, and preprocessed text is one file",
    "layout-warning": "a statement may look guarded that is not: the warning needs the source",
    "diagnostic-pragma": "#pragma GCC diagnostic for the preprocessor, which ignores it with -E",
    "last-line": "the source ends in a backslash, an error that preprocessed text may hide",
    "no-line-markers": "the preprocessed source does not say of which file it was made",
}


class RunLocally(Exception):
    """The command stays here. name: key of LOCAL_REASONS; detail: the option or file that decided, or "".

    heavy: it compiles or links, and so takes a local slot (-E, -M and --version do not)."""

    def __init__(self, name, detail="", heavy=True):
        super().__init__(name, detail)
        self.name, self.detail, self.heavy = name, detail, heavy

    def __str__(self):
        text = reason_text(self.name)
        return f"{text} ({self.detail})" if self.detail else text


class RefusedArgument(Exception):
    """serve_args() will not run this. argument: the word; why: one line for the log and for LMNO."""

    def __init__(self, argument, why):
        super().__init__(argument, why)
        self.argument, self.why = argument, why

    def __str__(self):
        return f"{self.argument!r}: {self.why}"


# -- compilers ---------------------------------------------------------------------------------------------------------

# Basename without target and version -> (family, C++ driver). A C++ driver takes .c, .i and .h for C++.
COMPILERS = {
    "gcc": ("gcc", False), "cc": ("gcc", False), "g++": ("gcc", True), "c++": ("gcc", True),
    "clang": ("clang", False), "clang++": ("clang", True),
}


def family_of(basename):
    """(family, cxx) of a compiler's basename, such as x86_64-linux-gnu-g++-12, or None. cc and c++ are taken for gcc:
    whoever can ask the compiler itself (section 6 of the design, compiler identity) knows better."""
    found = COMPILERS.get(basename)
    if found:
        return found
    words = basename.split("-")
    if len(words) > 1 and words[-1] and words[-1].strip("0123456789.") == "":
        words.pop()                                             # -12, -14.0.6; never "g++-" itself
    return COMPILERS.get(words[-1])


# -- languages ---------------------------------------------------------------------------------------------------------

# Suffix -> language, where gcc and clang agree (case matters: .C is C++, .c is C). Languages ending in cpp-output are
# preprocessed already.
SUFFIXES = {
    "c": "c", "i": "cpp-output", "ii": "c++-cpp-output", "m": "objective-c", "mi": "objective-c-cpp-output",
    "mm": "objective-c++", "M": "objective-c++", "mii": "objective-c++-cpp-output", "S": "assembler-with-cpp",
    "cc": "c++", "cp": "c++", "cxx": "c++", "cpp": "c++", "CPP": "c++", "c++": "c++", "C": "c++",
}
# Suffixes that have a reason of their own.
SUFFIX_REASONS = dict.fromkeys(("h", "hh", "H", "hp", "hxx", "hpp", "HPP", "h++", "tcc"), "pch") | {
    "s": "assembler", "cppm": "modules", "pcm": "modules", "gch": "pch"}
# Language -> (the kind that stage 2 is told, the suffix by which a plain distccd knows the language; it looks at
# nothing else). The assembler has none: distccd closes the connection on it.
STAGE_2 = {
    "c": ("cpp-output", "c"), "c++": ("c++-cpp-output", "cc"),
    "objective-c": ("objective-c-cpp-output", "m"), "objective-c++": ("objective-c++-cpp-output", "mm"),
    "assembler-with-cpp": ("assembler", ""),
    "cpp-output": ("cpp-output", "i"), "c++-cpp-output": ("c++-cpp-output", "ii"),
    "objective-c-cpp-output": ("objective-c-cpp-output", "mi"),
    "objective-c++-cpp-output": ("objective-c++-cpp-output", "mii"),
}
# -x values that are known and not sent.
LANGUAGE_REASONS = {"assembler": "assembler", "c-header": "pch", "c++-header": "pch", "objective-c-header": "pch",
                    "objective-c++-header": "pch", "c++-system-header": "modules", "c++-user-header": "modules",
                    "c++-module": "modules", "cu": "offload", "cuda": "offload", "hip": "offload"}
# Kind -> suffix of the file that a server writes.
KIND_SUFFIX = {"cpp-output": ".i", "c++-cpp-output": ".ii", "objective-c-cpp-output": ".mi",
               "objective-c++-cpp-output": ".mii", "assembler": ".s"}
# What a C++ driver makes of the suffixes .c and .i.
CXX_DRIVER = {"c": "c++", "cpp-output": "c++-cpp-output"}

# -- option tables -----------------------------------------------------------------------------------------------------
# A verdict is FIRST, BOTH or NEITHER stage; the name of a reason; or the name of a _Scan method (on_…) that sees the
# option.

NEITHER, FIRST, BOTH = 0, 1, 3

# Long spellings -> the short option they stand for. "=" and a following word are both allowed where the option has a
# value.
LONG_WITH_VALUE = {
    "--output": "-o", "--language": "-x", "--include": "-include", "--imacros": "-imacros", "--define-macro": "-D",
    "--undefine-macro": "-U", "--include-directory": "-I", "--include-directory-after": "-idirafter",
    "--include-prefix": "-iprefix", "--include-with-prefix": "-iwithprefix", "--assert": "-A", "--prefix": "-B",
    "--include-with-prefix-after": "-iwithprefix", "--include-with-prefix-before": "-iwithprefixbefore",
    "--library-directory": "-L", "--force-link": "-u", "--entry": "-e", "--for-linker": "-Xlinker",
    "--for-assembler": "-Xassembler", "--serialize-diagnostics": "-serialize-diagnostics",
}
LONG_FLAGS = {
    "--compile": "-c", "--assemble": "-S", "--preprocess": "-E", "--dependencies": "-M", "--user-dependencies": "-MM",
    "--write-dependencies": "-MD", "--write-user-dependencies": "-MMD", "--print-missing-file-dependencies": "-MG",
    "--comments": "-C", "--comments-in-macros": "-CC", "--trace-includes": "-H", "--no-line-commands": "-P",
    "--verbose": "-v", "--save-temps": "-save-temps", "--profile": "-p", "--no-warnings": "-w", "--ansi": "-ansi",
    "--all-warnings": "-Wall", "--extra-warnings": "-Wextra", "--pedantic": "-pedantic", "--optimize": "-O",
    "--pedantic-errors": "-pedantic-errors", "--debug": "-g", "--no-standard-includes": "-nostdinc",
    "--shared": "-shared", "--static": "-static", "--pipe": "-pipe", "--trigraphs": "-trigraphs",
}


def _rows(verdict, words):
    return dict.fromkeys(words.split(), verdict)


# Whole words: (verdict, number of words that follow as its value).
OPTIONS = {option: (verdict, 0) for table in (
    _rows("on_stop", "-c -S"),
    _rows("on_dependency_flag", "-MD -MMD"),
    _rows("dependencies", "-M -MM"),
    _rows("preprocess", "-E"),
    # -P -C -CC are errors or change columns with -c; -fpreprocessed and -fdirectives-only are ours to add.
    _rows("cpp-output", "-P -C -CC -fpreprocessed -fdirectives-only -no-integrated-cpp -fpch-preprocess -traditional"),
    _rows("verbose", "-### -v -H -Q -time --verbose"),
    _rows("query", "--version --help --target-help -dumpmachine -dumpversion -dumpfullversion -dumpspecs -V"
          " -print-search-dirs -print-libgcc-file-name -print-multi-lib -print-multi-directory -print-sysroot"),
    _rows("profile", "--coverage -coverage"),
    _rows("toolchain", "-b -cc1 -cc1as"),
    _rows("other-result", "-emit-llvm -emit-ast -emit-pch -emit-module -emit-interface-stubs --analyze --precompile"
          " -rewrite-objc -verify-pch -module-file-info -extract-api -fsyntax-only"),
    # The linker's: without use for -c, and clang says so (in stage 1 as well: it is the same text).
    _rows(FIRST, "-s -r -rdynamic -static -static-libgcc -static-libstdc++ -static-pie -shared -shared-libgcc"
          " -pie -no-pie -nopie -nostdlib -nostdlib++ -nodefaultlibs -nostartfiles -nolibc -symbolic"
          " -n -N -t -pass-exit-codes"),
    # The search of headers is over when stage 2 begins. -MG is an error without -M, stage 1 has it said.
    _rows(FIRST, "-undef -nostdinc -nostdinc++ -nostdlibinc -nobuiltininc -remap -MG -MP -MV -I-"
          " -no-canonical-prefixes -canonical-prefixes -fcanonical-system-headers -fno-canonical-system-headers"),
    # gcc -E -g tells stage 2 the compile folder by a line marker. -fno-working-directory would take that away, and in a
    # plain compile it does nothing.
    _rows(NEITHER, "-fworking-directory -fno-working-directory"),
    _rows("on_directives_bar", "-traditional-cpp -Wunused-macros -Wtraditional"),
    _rows(BOTH, "-w -W -ansi -pedantic -pedantic-errors -pipe -pthread -pthreads -p -pg -trigraphs -Qn -Qy"
          " -Qunused-arguments -no-integrated-as -integrated-as -EL -EB"),
) for option, verdict in table.items()}
OPTIONS["-fsyntax-only"] = ("syntax-only", 0)
OPTIONS.update((option, (verdict, 1)) for table in (
    _rows("on_output", "-o"),
    _rows("on_language", "-x"),
    _rows("on_depfile", "-MF"),
    _rows("on_target", "-MT -MQ"),
    _rows("on_preprocessor_word", "-Xpreprocessor"),
    _rows("on_assembler_word", "-Xassembler"),
    _rows("on_cc1_word", "-Xclang"),
    _rows("on_llvm_word", "-mllvm"),
    _rows("on_arch", "-arch"),
    _rows("on_folder", "-fdebug-compilation-dir"),
    _rows(FIRST, "-D -U -I -A -F -include -imacros -isystem -iquote -idirafter -iprefix -iwithprefix -iwithprefixbefore"
          " -isysroot --sysroot -imultilib -imultiarch -cxx-isystem -stdlib++-isystem -iframework -iwithsysroot"
          " -iframeworkwithsysroot -ivfsoverlay -gcc-toolchain --gcc-toolchain"),
    _rows(FIRST, "-L -l -u -z -T -e -R -Xlinker -framework -weak_framework -rpath"),
    _rows(BOTH, "--param --std -target -G"),
    _rows("pch", "-include-pch"),
    _rows("side-file", "-aux-info -MJ -serialize-diagnostics -index-store-path -dumpbase -dumpbase-ext -dumpdir"
          " -dependency-file -dependency-dot -foptimization-record-file"),
    _rows("wrapper", "-wrapper"),
    _rows("specs", "-specs --specs"),
    _rows("toolchain", "-B --config -ccc-gcc-name -ccc-install-dir -resource-dir -working-directory -Xarch_host"
          " -Xarch_device"),
    _rows("offload", "-Xopenmp-target -Xcuda-fatbinary -Xcuda-ptxas -foffload -Xoffload-linker"),
) for option, verdict in table.items())

# Option letter -> (verdict of words no row begins, rows (beginning, verdict)). The first row that fits counts.
_FAMILY_ROWS = {
    "f": ("on_f", (
        # profiles: what is counted, where it is written, what is read
        ("-fprofile", "profile"), ("-fauto-profile", "profile"), ("-fcs-profile", "profile"),
        ("-fbranch-prob", "profile"), ("-ftest-coverage", "profile"), ("-fcoverage", "profile"),
        ("-fcondition-coverage", "profile"), ("-fmemory-profile", "profile"),
        # files beside the object
        ("-fsave-optimization-record", "side-file"), ("-foptimization-record", "side-file"),
        ("-fopt-info", "side-file"), ("-fstack-usage", "side-file"), ("-fcallgraph-info", "side-file"),
        ("-ftime-trace", "side-file"), ("-fdeps-", "side-file"), ("-fproc-stat-report", "side-file"),
        ("-fdump-", "dump"), ("-fdbg-cnt", "dump"), ("-fdisable-", "dump"), ("-fenable-", "dump"),
        ("-fcompare-debug", "dump"), ("-fanalyzer-dump", "dump"), ("-frepo", "repository"),
        ("-fmem-report", "report"), ("-ftime-report", "report"), ("-fpre-ipa-mem", "report"),
        ("-fpost-ipa-mem", "report"), ("-fstats", "report"), ("-fcrash-diagnostics", "side-file"),
        ("-fdiagnostics-format=text", BOTH), ("-fdiagnostics-format", "diagnostics-format"),
        ("-fdiagnostics-generate-patch", "diagnostics-format"), ("-fself-test", "report"),
        ("-fbasic-block-sections=list", "reads-file"), ("-fapinotes", "modules"), ("-fapi-notes", "modules"),
        ("-fdiagnostics-add-output", "diagnostics-format"), ("-fdiagnostics-set-output", "diagnostics-format"),
        ("-fmodule", "modules"), ("-fcxx-modules", "modules"), ("-fimplicit-module", "modules"),
        ("-fprebuilt-", "modules"), ("-fbuild-session", "modules"), ("-fbuiltin-module", "modules"),
        ("-fpch-", "pch"), ("-fplugin", "plugin"), ("-fpass-plugin", "plugin"),
        ("-fthinlto-index", "reads-file"), ("-fxray-a", "reads-file"), ("-fxray-never", "reads-file"),
        ("-fsanitize-blacklist", "reads-file"), ("-fsanitize-ignorelist", "reads-file"),
        ("-fsanitize-system-", "reads-file"), ("-fsanitize-coverage-allow", "reads-file"),
        ("-fsanitize-coverage-ignore", "reads-file"), ("-fsanitize-coverage-white", "reads-file"),
        ("-fsanitize-coverage-black", "reads-file"), ("-frandomize-layout-seed-file", "reads-file"),
        ("-fembed-", "records-command"), ("-foffload", "offload"), ("-fopenmp-targets", "offload"),
        ("-fsanitize=", "on_sanitize"), ("-fsystem-module", "modules"),
        ("-fwpa", "other-result"), ("-fltrans", "other-result"),
        ("-fresolution", "other-result"), ("-flinker-output", FIRST), ("-fuse-ld", FIRST),
        # gcc -E has turned the text into UTF-8 already; to do it twice garbles it.
        ("-finput-charset", FIRST),
        ("-fmacro-prefix-map", "on_macro_map"),
        ("-fdebug-compilation-dir", "on_folder"), ("-ffile-compilation-dir", "on_folder"),
        ("-fdebug-prefix-map=", "on_debug_map"), ("-ffile-prefix-map=", "on_debug_map"),
        ("-femit-struct-debug", "on_debug_source"), ("-fdebug-macro", "on_debug_source"),
        ("-flto", "on_lto"),
        # In text from -fdirectives-only these pragmas are lost.
        ("-fopenmp", "on_directives_bar"), ("-fopenacc", "on_directives_bar"), ("-fgnu-tm", "on_directives_bar"),
        ("-fverbose-asm", "on_verbose_asm"), ("-frecord-", "on_recorded_command"),
    )),
    "g": ("on_debug", (
        ("-gsplit-dwarf", "split-dwarf"), ("-gmodules", "modules"), ("-gembed-source", "needs-source"),
        ("-gen-reproducer", "side-file"), ("-gcc-toolchain=", FIRST), ("-grecord-", "on_recorded_command"),
    )),
    "m": (BOTH, (
        ("-march=native", "native"), ("-mtune=native", "native"), ("-mcpu=native", "native"),
        ("-mdump-", "dump"), ("-mprint-", "dump"), ("-mllvm=", "cc1-option"),
        ("-mlinker-version", FIRST),
    )),
    "W": (BOTH, (("-Wp,", "on_preprocessor_words"), ("-Wa,", "on_assembler_words"), ("-Wl,", FIRST),
                 ("-Wdocumentation", "comments"), ("-Weverything", "comments"))),
    "O": ("on_level", (("-ObjC", "language"),)),
    "G": (BOTH, ()), "D": (FIRST, ()), "U": (FIRST, ()), "I": (FIRST, ()), "A": (FIRST, ()), "F": (FIRST, ()),
    "L": (FIRST, ()), "l": (FIRST, ()), "T": (FIRST, ()), "z": (FIRST, ()), "u": (FIRST, ()),
    "R": (FIRST, (("-Rpass", "report"), ("-Reverything", "report"), ("-Rno-", "report"))),
    "o": ("on_joined_output", (("-object", "option"),)),
    "x": ("on_joined_language", ()),
    "i": (FIRST, (("-include-pch", "pch"), ("-iplugindir", "plugin"), ("-index-", "side-file"),
                  ("-install", "option"))),
    "M": ("dependencies", (("-MF", "on_joined_depfile"), ("-MT", "on_joined_target"), ("-MQ", "on_joined_target"),
                           ("-MJ", "side-file"), ("-Mmodules", "modules"), ("-Mno-modules", "modules"))),
    "s": ("option", (("-std=", BOTH), ("-stdlib=", FIRST), ("-save-temps", "save-temps"), ("-save-stats", "report"),
                     ("-specs", "specs"), ("-static", FIRST), ("-shared", FIRST))),
    "d": ("dump", ()), "p": ("option", (("-print-", "query"), ("-pie", FIRST))),
    "B": ("toolchain", ()), "V": ("toolchain", ()), "b": ("toolchain", ()), "C": ("cpp-output", ()),
    "n": ("option", (("-no-", FIRST), ("-nostd", FIRST))), "e": ("option", (("-emit-", "other-result"),)),
    "X": ("option", (("-Xarch_", "multiple-arch"), ("-Xopenmp", "offload"), ("-Xcuda", "offload"))),
    "-": ("option", (
        ("--param=", BOTH), ("--std=", BOTH), ("--target=", BOTH), ("--sysroot=", FIRST), ("--gcc-toolchain=", FIRST),
        ("--stdlib=", FIRST), ("--rtlib=", FIRST), ("--unwindlib=", FIRST), ("--ld-path=", FIRST),
        ("--save-temps", "save-temps"), ("--coverage", "profile"),
        ("--help", "query"), ("--version", "query"), ("--print-", "query"), ("--target-help", "query"),
        ("--dump", "side-file"), ("--specs", "specs"), ("--prefix", "toolchain"), ("--config", "toolchain"),
        ("--driver-mode", "language"), ("--cuda", "offload"), ("--hip", "offload"), ("--offload", "offload"),
    )),
    "a": ("option", (("-aux-info=", "side-file"),)),
    "r": ("option", (("-rtlib=", FIRST), ("-resource-dir=", "toolchain"))),
    "w": ("option", (("-working-directory", "toolchain"),)),
    "c": ("option", (("-cxx-isystem", FIRST), ("-ccc-", "toolchain"))),
}
# With all beginnings of a letter as one tuple for str.startswith: most words begin no row, and that is one call for
# them.
FAMILIES = {letter: (default, tuple(beginning for beginning, _ in rows), rows)
            for letter, (default, rows) in _FAMILY_ROWS.items()}

# Reasons that say what the command is for, and so come before any other; False: takes no slot.
MODES = {"preprocess": False, "dependencies": False, "query": False, "syntax-only": True}

# Sanitizers that leave no source positions in the object. The others' data holds line and column of each check or
# variable; with plain -E a macro earlier in the line shifts the column.
NO_COLUMNS = frozenset(("thread", "leak", "memory", "safe-stack", "shadow-call-stack", "fuzzer", "fuzzer-no-link",
                        "cfi-icall", "kcfi", "memtag", "memtag-stack", "memtag-heap", "realtime", "dataflow"))
# -g options, without their level or version, that switch debug information on. (The others refine it.)
DEBUG_WORDS = frozenset(("-g", "-ggdb", "-gdwarf", "-gdwarf32", "-gdwarf64", "-gline-tables-only",
                         "-gline-directives-only", "-gmlt", "-glldb", "-gsce", "-gdbx", "-gfull", "-gused", "-gstabs",
                         "-gstabs+", "-gcodeview",
                         "-gbtf", "-gctf", "-gvms", "-gxcoff"))
# -f options whose value is a path that is only written into the object, or compared; with any other a "/" names a file
# to read or write. Shared with the server's table.
PATHS_IN_VALUE = ("-fdebug-prefix-map=", "-ffile-prefix-map=", "-fmacro-prefix-map=", "-frandom-seed=",
                  "-fdebug-compilation-dir", "-ffile-compilation-dir", "-finstrument-functions-exclude-file-list=")
# What gas is given; shared with the server's table. -a… and --MD write listings, -I reads, -g names its folder.
ASSEMBLER_WORDS = ("--noexecstack", "--execstack", "--fatal-warnings", "--warn", "--no-warn", "-W", "--no-pad-sections",
                   "--compress-debug-sections", "--nocompress-debug-sections", "-m", "--32", "--64", "--x32", "-EB",
                   "-EL", "-L", "--keep-locals", "--generate-missing-build-notes", "--elf-stt-common", "-O",
                   "--size-check",
                   "--defsym", "-mbig-obj", "--divide", "--sectname-subst", "--strip-local-absolute")
# Options of clang's inner compiler that only change code. A word that is not here may read, write or load anything.
CC1_WORDS = frozenset(("-disable-O0-optnone", "-disable-llvm-passes", "-disable-llvm-verifier", "-relaxed-aliasing",
                       "-opaque-pointers", "-no-opaque-pointers", "-fnative-half-type"))
# Beginnings of -mllvm options that only change code.
LLVM_WORDS = ("-inline-threshold=", "-inlinehint-threshold=", "-unroll-threshold=", "-force-vector-", "-enable-",
              "-disable-", "-align-all-", "-asan-", "-hwasan-", "-msan-", "-sanitizer-coverage-", "-x86-", "-arm-",
              "-aarch64-", "-treat-scalable-", "-vectorize-", "-hot-cold-split", "-polly")
# Words for the preprocessor proper (-Wp, -Xpreprocessor) that end with stage 1. Those of PREPROCESSOR_VALUES take the
# next word where nothing is joined to them.
PREPROCESSOR_VALUES = frozenset(("-D", "-U", "-I", "-A", "-include", "-imacros", "-isystem", "-iquote", "-idirafter",
                                 "-iprefix", "-iwithprefix", "-iwithprefixbefore", "-isysroot"))
PREPROCESSOR_WORDS = ("-D", "-U", "-I", "-A", "-i", "-undef", "-nostdinc", "-remap")


def bad_assembler_word(words, table=ASSEMBLER_WORDS):
    """The first of the assembler's words that is not in the table, or None. --defsym takes the next
    word; but whatever comes before it, gas puts the words of a file in the place of @FILE."""
    skip = False
    for word in words:
        if skip and word[:1] != "@":
            skip = False
        elif not word.startswith(table) or "/" in word:
            return word
        else:
            skip = word == "--defsym"
    return None


# -- @files ------------------------------------------------------------------------------------------------------------

AT_FILE_LIMIT = 2000      # files opened for one command: libiberty's own limit, where it stops with an error


def split_at_file(text):
    """Words of an @file as libiberty's buildargv splits them: blanks separate, ' and " quote, \\ takes the next
    character as it is, inside quotes too. (Not sh's rules, and not shlex's.)"""
    words, word, quote, escaped = [], None, "", False
    for char in text:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\":
            word, escaped = word or "", True
        elif quote:
            if char == quote:
                quote = ""
            else:
                word += char
        elif char in "'\"":
            word, quote = word or "", char
        elif char in " \t\n\v\f\r":
            if word is not None:
                words.append(word)
                word = None
        else:
            word = (word or "") + char
    if word is not None:
        words.append(word)
    return words


def expand_at_files(args, read):
    """args with every @file replaced by its words, nested ones too. read(path) -> bytes, raises OSError: then the
    word stays as it is, as in gcc. RunLocally "at-file" where files name each other without end."""
    pending, result, opened = list(reversed(args)), [], 0
    while pending:
        arg = pending.pop()
        if arg[:1] != "@" or arg == "@":
            result.append(arg)
            continue
        opened += 1
        if opened > AT_FILE_LIMIT:
            raise RunLocally("at-file", arg)
        try:
            text = read(arg[1:])
        except OSError:
            result.append(arg)
            continue
        text = text.partition(b"\0")[0].decode(sys.getfilesystemencoding(), "surrogateescape")
        pending.extend(reversed(split_at_file(text)))
    return result


def _shorten(args):
    """args with the long spellings replaced by the short ones; the list itself where there are none."""
    result, values = [], 0
    for arg in args:
        if values or arg[:2] != "--":
            # The value of an option may look like a long option: -include --version
            values = 0 if values else OPTIONS.get(arg, (0, 0))[1]
            result.append(arg)
            continue
        name, equals, value = arg.partition("=")
        short = LONG_WITH_VALUE.get(name)
        if short:
            result.append(short)
            if equals:
                result.append(value)
            else:
                values = 1
        else:
            result.append(LONG_FLAGS.get(arg, arg))
            values = OPTIONS.get(arg, (0, 0))[1]
    return result


# -- reading a command -------------------------------------------------------------------------------------------------

class _Scan:
    """State while the words of one command are read. Methods on_… are named by the tables: (word, value) where the
    table says that a word follows, else (word, "")."""

    __slots__ = ("family", "first", "second", "source", "language", "outputs", "stops", "mode", "refusal", "depfile",
                 "dependency_flag", "targets", "words", "level", "debug", "verbose_asm", "arch", "folder_given", "bar",
                 "inputs", "dropped", "columns", "openmp", "lto", "emptied")

    def __init__(self, family):
        self.family = family
        self.first, self.second = [], []        # words of stage 1 (with the source), and of stage 2 (without)
        self.source, self.inputs = None, 0      # first input as given; how many there are
        self.language = None                    # by the last -x before the source, else None: by suffix
        self.outputs, self.stops = [], ""       # -o values; "-c" or "-S"
        self.mode = None                        # (reason, word) of -E, -M, --version …: decides before anything else
        self.refusal = None                     # (reason, word) of the first word that keeps the command here
        self.depfile, self.dependency_flag = None, False    # last -MF; whether -MD or -MMD is there
        self.targets = False                    # -MT or -MQ is there
        self.words = []                         # what -Wp and -Xpreprocessor hand to the preprocessor proper, in order
        self.level, self.debug = "", ""         # last -O…; last -g… that switches debug information on or off
        self.verbose_asm = self.folder_given = self.dropped = False
        self.arch = 0                           # how many -arch
        self.bar = None                         # word that rules out -fdirectives-only
        self.columns = None                     # word that has columns written into the object
        self.openmp = False                     # which with -g does that, too, in clang
        self.lto = False                        # whose objects name the folder, as those with -g
        self.emptied = ""                       # word by which the folder may come to have no name

    def refuse(self, reason, word):
        if self.refusal is None:
            self.refusal = (reason, word)

    def put(self, verdict, word, value=None):
        """One option, with its value if it takes one, to the stages that the verdict names."""
        words = (word,) if value is None else (word, value)
        if verdict:
            self.first += words
            if verdict == BOTH:
                self.second += words
            else:
                self.dropped = True

    def on_input(self, word):
        self.inputs += 1
        if word == "-":
            self.refuse("stdin", "")
        elif self.source is None:
            self.source = word
        self.first.append(word)

    def on_stop(self, word, value):
        if self.stops != "-S":                  # -S wins, whatever the order
            self.stops = word

    def on_output(self, word, value):
        self.outputs.append(value)

    def on_joined_output(self, word, value):
        self.outputs.append(word[2:])

    def on_language(self, word, value):
        if not self.inputs:
            self.language = None if value == "none" else value
        self.first += (word, value)

    def on_joined_language(self, word, value):
        self.on_language("-x", word[2:])

    def on_f(self, word, value):
        if "/" in word and not word.startswith(PATHS_IN_VALUE):
            self.refuse("value", word)
        self.put(BOTH, word)

    def on_sanitize(self, word, value):
        if not NO_COLUMNS.issuperset(word[11:].split(",")):
            self.columns = word
        self.put(BOTH, word)

    def on_macro_map(self, word, value):
        # __FILE__ is expanded in stage 1, with -fdirectives-only in stage 2; clang warns of the option in stage 2.
        self.put(FIRST if self.family == "clang" else BOTH, word)

    def on_folder(self, word, value):
        self.folder_given = True
        self.put(BOTH, word, value)

    def on_debug_map(self, word, value):
        if word[-1] == "=" and word[-2] != "/":
            self.emptied = word
        self.put(BOTH, word)

    def on_debug_source(self, word, value):
        self.refuse("debug-source", word)
        self.put(BOTH, word)

    def on_lto(self, word, value):
        self.lto = True
        self.put(BOTH, word)

    def on_directives_bar(self, word, value):
        self.openmp = self.openmp or word.startswith("-fopenmp")
        self.bar = self.bar or word
        self.put(BOTH, word)

    def on_verbose_asm(self, word, value):
        self.verbose_asm = True                 # quotes source lines in the text of -S; with -c it has no effect
        self.put(FIRST, word)

    def on_recorded_command(self, word, value):
        # gcc leaves the options of the preprocessor out, so its record is the same; clang's has all words.
        if self.family == "clang":
            self.refuse("records-command", word)
        self.bar = self.bar or word             # it would record -fdirectives-only
        self.put(BOTH, word)

    def on_level(self, word, value):
        self.level = word
        self.put(BOTH, word)

    def on_debug(self, word, value):
        name = word.rstrip("0123456789")
        if name.rstrip("-") in DEBUG_WORDS:
            self.debug = "" if word[-1] == "0" else word
            if word[-1] == "3" and name[-1] != "-":         # -g3 and -ggdb3, but not -gdwarf-3
                self.bar = self.bar or word
        self.put(BOTH, word)

    def on_arch(self, word, value):
        self.arch += 1
        if self.arch > 1:
            self.refuse("multiple-arch", value)
        self.put(BOTH, word, value)

    def on_cc1_word(self, word, value):
        if value not in CC1_WORDS:
            self.refuse("plugin" if value == "-load" else "cc1-option", value)
        self.put(BOTH, word, value)

    def on_llvm_word(self, word, value):
        if not value.startswith(LLVM_WORDS) or "/" in value:
            self.refuse("cc1-option", value)
        self.put(BOTH, word, value)

    def on_assembler_words(self, word, value):
        bad = bad_assembler_word(word.split(",")[1:])
        if bad is not None:
            listing = bad.startswith(("-a", "--MD", "--statistics"))
            self.refuse("listing" if listing else "assembler-option", word)
        self.put(BOTH, word)

    def on_assembler_word(self, word, value):
        self.on_assembler_words("-Wa," + value, "")

    # Dependencies. gcc's driver turns -MD into "-MD NAME.d" and, with -o, adds "-MQ OUTPUT"; -Wp and -Xpreprocessor
    # words come after all of that and the last file named is written.

    def on_dependency_flag(self, word, value):
        self.dependency_flag = True
        self.first.append(word)

    def on_depfile(self, word, value):
        self.depfile = value

    def on_joined_depfile(self, word, value):
        self.depfile = word[3:]

    def on_target(self, word, value):
        self.targets = True
        self.first += (word, value)

    def on_joined_target(self, word, value):
        self.targets = True
        self.first.append(word)

    def on_preprocessor_words(self, word, value):
        words = word.split(",")[1:]
        if self.family == "gcc":
            self.words += words
        elif words[0] in ("-MD", "-MMD"):
            # The one dependency form that clang's driver knows; further words get lost there, and so they do here.
            self.dependency_flag = True
            self.first.append(words[0])
            if len(words) == 2:
                self.depfile = words[1]
            elif len(words) > 2:
                self.refuse("dependency-form", word)
        else:
            if any(each.startswith("-M") for each in words):
                self.refuse("dependency-form", word)
            self.words += words

    def on_preprocessor_word(self, word, value):
        if self.family == "clang" and value.startswith("-M"):
            self.refuse("dependency-form", value)
        self.words.append(value)

    def read(self, args):
        """All words of the command, by the tables."""
        at, count, options, families = 0, len(args), OPTIONS, FAMILIES
        while at < count:
            word = args[at]
            at += 1
            verdict, values = options.get(word) or (None, 0)
            if verdict is None:
                if word[:1] != "-" or word == "-":
                    self.on_input(word)
                    continue
                verdict, beginnings, rows = families.get(word[1], ("option", (), ()))
                if word.startswith(beginnings):
                    verdict = next(row for beginning, row in rows if word.startswith(beginning))
            value = None
            if values:
                if at == count:
                    self.refuse("missing-value", word)
                    break
                value = args[at]
                at += 1
            if verdict.__class__ is int:
                self.put(verdict, word, value)
            elif verdict[:3] == "on_":
                getattr(self, verdict)(word, value)
            elif verdict in MODES:
                self.mode = self.mode or (verdict, word)
            else:
                self.refuse(verdict, word)


def _preprocessor_words(words):
    """-Wp and -Xpreprocessor words for gcc -> (words with None in place of each dependency file, the last such file
    or None, whether they ask for dependencies). RunLocally for a word that is not in the table: it would be missing
    in stage 2."""
    result, depfile, wanted, at = [], None, False, 0
    while at < len(words):
        word = words[at]
        at += 1
        if word in ("-MD", "-MMD", "-MF", "-MT", "-MQ") or word in PREPROCESSOR_VALUES:
            if at == len(words):
                raise RunLocally("missing-value", word)
            value = words[at]
            at += 1
        elif word[:3] in ("-MF", "-MT", "-MQ"):
            word, value = word[:3], word[3:]
        elif word in ("-MP", "-MG") or word.startswith(PREPROCESSOR_WORDS) and not word.startswith("-include-pch"):
            result.append(word)
            continue
        else:
            raise RunLocally("preprocessor-option", word)
        if word in ("-MD", "-MMD", "-MF"):
            wanted = wanted or word != "-MF"
            depfile, value = value, None
        result += (word, value)
    return result, depfile, wanted


def basename(path):
    return path[path.rfind("/") + 1:]


def stem(path):
    """The basename without its last suffix, as gcc names outputs: a.b.c -> a.b"""
    name = basename(path)
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


def _with_suffix_d(output):
    """The dependency file that -MD names after -o: the last suffix of the last part becomes .d, or is added."""
    dot, slash = output.rfind("."), output.rfind("/")
    return (output[:dot] if dot > slash else output) + ".d"


LAYOUT_WARNINGS = frozenset(("-Wall", "-Wmisleading-indentation", "-Wmultistatement-macros",
                             "-Werror=misleading-indentation", "-Werror=multistatement-macros"))


def _warns_of_layout(family, words):
    """Whether these options of stage 2 have warnings on that Guards looks for."""
    if "-w" in words:
        return False
    if family == "clang" and "-Wno-empty-body" not in words:
        return True                                         # by default
    return not LAYOUT_WARNINGS.isdisjoint(words) and "-Wno-misleading-indentation" not in words


class Command:
    """A command that can be compiled elsewhere: what is read, what is written, and the argument list of each step."""

    __slots__ = ("family", "source", "output", "language", "preprocessed", "assemble", "depfile", "depfile_appended",
                 "depfile_variable", "debug", "level", "directives_only_bar", "plain_bar", "own_only",
                 "names_folder", "layout", "target", "_first", "_second", "_words", "_redirect",
                 "_folder_given")

    def __init__(self, scan, language, cxx, environ):
        self.family = scan.family
        self.source = scan.source               # as given; its folder is part of what gcc writes into objects
        self.language = language                # key of STAGE_2
        self.preprocessed = language.endswith("cpp-output")
        self.assemble = scan.stops              # "-c" or "-S"
        output = scan.outputs[0] if scan.outputs else None
        self.output = output or stem(scan.source) + (".o" if scan.stops == "-c" else ".s")
        self.level, self.debug = scan.level, scan.debug     # last -O…; last -g… unless it is -g0
        self._first, self._second = scan.first, scan.second
        self._folder_given = scan.folder_given
        self.names_folder = scan.family == "gcc" and bool(scan.debug or scan.lto)   # in the object
        # Whether the compiler may warn of what it cannot see in preprocessed text: see Guards.
        self.layout = not self.preprocessed and language != "assembler-with-cpp" and \
            _warns_of_layout(scan.family, scan.second)
        # Why -fdirectives-only is out of the question, or None.
        self.directives_only_bar = self._bar(scan.bar or "-Wmisleading-indentation" * self.layout)
        # Option for which plain -E gives another object, or None. (Text that came preprocessed has its columns.)
        places = "-fopenmp with -g" if self.family == "clang" and scan.openmp and scan.debug else None
        self.plain_bar = None if self.preprocessed else scan.columns or places
        # Why no plain distccd will do, or None: it goes by the suffix alone, closes on .S, and a C++ driver makes C++
        # of its .i.
        self.own_only = None
        if language == "assembler-with-cpp":
            self.own_only = "assembler source"
        elif cxx and language in ("c", "cpp-output"):
            self.own_only = "C with a C++ compiler"
        self._dependencies(scan, output, environ)

    def _bar(self, option):
        if self.family == "clang":
            return "clang has no such mode"
        if self.language not in ("c", "c++"):
            return "not tried with this language"           # stage 2 would obey #import; the assembler has no such mode
        return option

    def _dependencies(self, scan, output, environ):
        """Which file gcc's own run would write (depfile), and how stage 1 is made to write the same elsewhere."""
        self._words, in_words, wanted = scan.words, None, False
        if scan.words:
            found = _preprocessor_words(scan.words)     # clang's one cc1 would get all others, too
            if self.family == "gcc":
                self._words, in_words, wanted = found
        self.depfile, self.depfile_appended, self.depfile_variable = None, False, None
        self._redirect = scan.depfile is not None           # -MF without -MD: stage 1 shall say what gcc says of it
        self.target = None                      # what dependencies are of, where stage 1 has to be told
        if scan.dependency_flag:
            named = _with_suffix_d(output) if output else stem(scan.source) + ".d"
            self.depfile = scan.depfile if scan.depfile is not None else named
            self._redirect = True
            if output and not scan.targets:
                self.target = output
        if in_words is not None:
            self.depfile = in_words                         # they come after the driver's own: the last one counts
        if self.family == "gcc" and not scan.dependency_flag and not wanted:
            self._dependencies_by_environment(scan, in_words, environ)
        if self.preprocessed:
            if self.depfile_variable or self.family == "clang" and self._redirect:
                raise RunLocally("preprocessed-dependencies", self.depfile or "-MF")
            self.depfile = None                             # gcc takes the options and writes nothing
        if self.depfile == "-" or self.depfile == "":
            raise RunLocally("stdout", "-MF " + self.depfile)

    def _dependencies_by_environment(self, scan, in_words, environ):
        """gcc appends to the file that DEPENDENCIES_OUTPUT="FILE[ TARGET]" names, else SUNPRO_DEPENDENCIES (system
        headers too, without the source itself), where no option asks for dependencies. clang knows neither."""
        for variable in ("DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"):
            value = environ.get(variable)
            if value is not None:
                path, _, target = value.partition(" ")
                chosen = in_words if in_words is not None else scan.depfile
                self.depfile = path if chosen is None else chosen
                self.depfile_appended = True
                self.depfile_variable = (variable, " " + target if target or value.endswith(" ") else "")
                return

    @property
    def job_class(self):
        """What the time per KB depends on, for the statistics: "c++ -O2 -g"."""
        return " ".join(filter(None, (self.language, self.level or "-O0", "-g" if self.debug else "")))

    @property
    def flags_key(self):
        """All that decides the code but the source and the names of outputs; to remember something of (file, flags)."""
        words = [word for word in self._first if word != self.source]
        return "\0".join((self.family, self.language, self.assemble, *words, *filter(None, self._words)))

    @property
    def shape(self):
        """With flags_key and the mode, all that preprocess_args() depends on but the names of source and target; ""
        where recipes are not for this command: the driver itself looks at its surroundings, or expands the name."""
        if self.family != "gcc" or self.depfile_variable or self.source[0] in "-@" or "\n" in self.flags_key \
                or "sysroot" in self.flags_key:
            return ""
        places = [str(i) for i, word in enumerate(self._first) if word == self.source]
        return " ".join((basename(self.source).rpartition(".")[2], "-MF" if self._redirect else "",
                         "-MQ" if self.target is not None else "", *places))

    def header_folders(self):
        """Of the options for them: ["include", ...], also the source's own."""
        found, words = [self.source.rpartition("/")[0] or "."], iter(self._first)
        for word in words:
            for option in ("-I", "-iquote", "-isystem"):
                if word == option:
                    found.append(next(words, ""))
                elif word.startswith(option):
                    found.append(word[len(option):])
        return found

    def preprocess_args(self, mode, depfile_temp=None, stand_in=None):
        """Stage 1: arguments for text on standard output; mode "plain" or "directives". The dependencies go to
        depfile_temp with the content that gcc's own run would write to depfile; it may hold no comma. stand_in: a name
        in place of source and target."""
        assert not self.preprocessed and (depfile_temp or not self.depfile)
        args = [stand_in if stand_in and word == self.source else word for word in self._first]
        args.append("-E")
        if self.names_folder:
            args.append("-fworking-directory")              # by itself only with -g
        if mode == "directives":
            args.append("-fdirectives-only")
        elif self.family == "gcc":
            # What system headers' macros become is not marked as theirs: stage 2 would say nothing of
            # int x = NULL, as gcc alone does. (It may say more than gcc alone; then it is done again here.)
            args.append("-ftrack-macro-expansion=0")
        if self._redirect:
            args += ("-MF", depfile_temp or "/dev/null")
        if self.target is not None:
            args += ("-MQ", STAND_IN_TARGET if stand_in else self.target)
        for word in self._words:
            args += ("-Xpreprocessor", depfile_temp if word is None else word)
        return args

    def preprocess_environ(self, depfile_temp):
        """What differs in the environment of stage 1: {name: value}."""
        if not self.depfile_variable:
            return {}
        variable, target = self.depfile_variable
        return {variable: depfile_temp + target}

    def remote_args(self, mode, folder, own=True):
        """Stage 2: arguments for the server (without the compiler). folder: the client's, which only gcc's text says by
        itself. own: a server of ours, which takes -x; a distccd goes by the suffix alone."""
        assert own or not self.own_only
        args = [*self._second]
        kind, suffix = STAGE_2[self.language]
        name = basename(self.source) or "source"
        if mode == "directives":
            args += ("-fpreprocessed", "-fdirectives-only")
        if self.language == "assembler-with-cpp":
            if self.family == "clang":
                args.append("-Qunused-arguments")           # -std=, -O: used in stage 1, and warned of there
        elif self.family == "clang" and not self._folder_given:
            args.append("-fdebug-compilation-dir=" + folder)
        if own:
            args += ("-x", kind)
        elif SUFFIXES.get(name.rpartition(".")[2]) != self.language or name.endswith(".CPP"):  # not distccd's
            name = f"{name}.{suffix}"
        return [*args, self.assemble, name, "-o", basename(self.output) or "output"]


# ---- recipes: stage 1 without gcc's driver
#
# gcc's driver only works out which cc1 to run, with which arguments: 1.4 ms of 20 for a file of Redis, and the same
# each time. A recipe is that command, learnt once from `gcc -###` with names standing in for source and target, and
# kept by the daemon for the user by compiler, flags, shape and mode. One that fails is dropped: the driver runs again.

STAND_IN_SOURCE, STAND_IN_BASE, STAND_IN_TARGET, STAND_IN_DEPFILE, STAND_IN_LIST = (
    "distcc_lm-" + name for name in ("source", "base", "target", "depfile", "list"))
NO_RECIPE, RECIPE_WANTED = "-", "?"
# Spares the real path of each header of the system at each place where it is looked for, 3,300 readlink() in a file of
# Redis: 1.9 ms of 17. gcc writes that path where it is shorter; for the few names in the end the client does that.
AS_FOUND = "-fno-canonical-system-headers"


def stand_in_for(source):
    """The name that stands for a source: its suffix tells the driver what to do."""
    name, dot, suffix = basename(source).rpartition(".")
    return STAND_IN_SOURCE + dot + suffix if name else STAND_IN_SOURCE


def make_recipe(trace, stand_in, mode):
    """The command that `gcc -###` printed, as lines, with STAND_INs; NO_RECIPE where it is more than one command, or
    mentions the source where it is not expected. In mode "directives", where the client looks at the files read, with
    AS_FOUND."""
    commands = [line for line in trace.split("\n") if line.startswith(" ")]
    words = unquoted(commands[0]) if len(commands) == 1 else []
    for i, word in enumerate(words):
        if word == stand_in:
            words[i] = STAND_IN_BASE if words[i - 1] == "-dumpbase" else STAND_IN_SOURCE
        elif STAND_IN_SOURCE in word and (words[i - 1] not in ("-MD", "-MMD") or words[i + 1:i + 2] != ["-MF"]):
            return NO_RECIPE                                # there it is a name that -MF overrules
    if STAND_IN_SOURCE not in words or words[0][:1] != "/" or not basename(words[0]).startswith("cc1"):
        return NO_RECIPE
    return "\n".join(words + [AS_FOUND] * (mode == "directives"))


def unquoted(line):
    """Words of a line of `gcc -###`: bare, or in double quotes with a backslash before each of " $ and backslash."""
    words, at = [], 1
    while at < len(line):
        if line[at] != '"':
            end = line.find(" ", at)
            end = len(line) if end < 0 else end
            words.append(line[at:end])
            at = end + 1
            continue
        word, at = "", at + 1
        while line[at:at + 1] not in ('"', ""):
            at += line[at] == "\\"
            word += line[at:at + 1]
            at += 1
        words.append(word)
        at += 2
    return words


# ---- surroundings

# Variables that change what a compiler is or does, whatever its arguments: where they are set the command stays here.
ENVIRONMENT = ("GCC_EXEC_PREFIX", "COMPILER_PATH", "CCC_OVERRIDE_OPTIONS", "QA_OVERRIDE_GCC3_OPTIONS",
               "GCC_COMPARE_DEBUG", "CC_PRINT_OPTIONS", "CC_PRINT_HEADERS", "CC_LOG_DIAGNOSTICS", "CC_PRINT_PROC_STAT",
               "CCC_ADD_ARGS", "MACOSX_DEPLOYMENT_TARGET")
# Libraries that leave the compiler's work as it is (a build of packages, an eager test machine).
PRELOADS = ("libfakeroot", "libeatmydata")


def environment_refusal(environ):
    """("environment", variable) where an environment variable keeps compiles here, or None. environ: a mapping of
    str."""
    for variable in ENVIRONMENT:
        if environ.get(variable):
            return "environment", variable
    for library in environ.get("LD_PRELOAD", "").replace(":", " ").split():
        if not basename(library).startswith(PRELOADS):
            return "environment", f"LD_PRELOAD={library}"
    return None


def _language(scan, cxx):
    """The language of the source, key of STAGE_2, by -x or else by suffix; RunLocally where it is not sent."""
    if scan.language is not None:
        if scan.language not in STAGE_2:
            raise RunLocally(LANGUAGE_REASONS.get(scan.language, "language"), "-x " + scan.language)
        return scan.language
    suffix = basename(scan.source).rpartition(".")[2]
    language = SUFFIXES.get(suffix)
    if language is None or "." not in basename(scan.source)[1:]:    # .c is no C for gcc
        raise RunLocally(SUFFIX_REASONS.get(suffix, "suffix"), scan.source)
    return CXX_DRIVER.get(language, language) if cxx else language


def _check_input(scan):
    """RunLocally unless there is exactly one input that can be read twice."""
    source = scan.source
    if not scan.inputs:
        raise RunLocally("no-input")
    if source == "-" or source is None:
        raise RunLocally("stdin")
    if scan.inputs > 1:
        raise RunLocally("several-inputs", source)
    if source.startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/")):
        raise RunLocally("stdin", source)
    if source[:1] == "@":
        raise RunLocally("at-file", source)
    if basename(source).startswith(("conftest.", "tmp.conftest.")):
        raise RunLocally("conftest", source)


def _check_outputs(scan):
    if len(scan.outputs) > 1:
        raise RunLocally("two-outputs", " ".join(scan.outputs))
    if scan.outputs and scan.outputs[0] in ("-", ""):
        raise RunLocally("stdout", "-o " + scan.outputs[0])
    if scan.outputs and scan.outputs[0] == scan.source:
        raise RunLocally("same-file", scan.source)


def _check_combination(scan, language, folder):
    """RunLocally for what only the options together, or with language and folder, decide."""
    if scan.family == "gcc" and not language.endswith("cpp-output"):
        if (scan.debug or scan.lto) and any(char in folder for char in '\\"\n'):
            raise RunLocally("folder-name", folder)         # gcc -E escapes it, and cc1 takes it so
        if scan.debug and scan.emptied:
            raise RunLocally("folder-name", scan.emptied)   # the assembler fills in its own
    if scan.verbose_asm and scan.stops == "-S":
        raise RunLocally("needs-source", "-fverbose-asm")
    if language == "assembler-with-cpp":
        if scan.stops == "-S":
            raise RunLocally("other-result", "-S")
        if scan.debug:
            raise RunLocally("assembler-debug", scan.debug)
    if scan.stops == "-S" and scan.debug:
        raise RunLocally("debug-text", scan.debug)
    if language.endswith("cpp-output") and scan.family == "clang" and (scan.dropped or scan.words):
        raise RunLocally("preprocessed-warning", scan.source)


def analyze(args, family, cxx, environ, read=None, folder=""):
    """args without the compiler -> Command, or RunLocally with the reason. read(path) -> bytes opens @files (OSError:
    none). folder: the one it is run in.

    The reason is the most telling one: what the command is for (-E, -M, --version; a link) comes before any single
    option."""
    if read is not None and any(arg[:1] == "@" for arg in args):
        args = expand_at_files(args, read)
    if any(arg[:2] == "--" for arg in args):
        args = _shorten(args)
    scan = _Scan(family)
    scan.read(args)
    if scan.mode:
        raise RunLocally(*scan.mode, heavy=MODES[scan.mode[0]])
    if not scan.stops:
        if not scan.inputs:
            reason, detail = scan.refusal or ("query", "")
            idle = reason in ("query", "verbose", "report")     # gcc -v
            raise RunLocally("query" if idle else reason, detail, heavy=not idle)
        raise RunLocally("link")
    if scan.refusal:
        raise RunLocally(*scan.refusal)
    refusal = environment_refusal(environ)
    if refusal:
        raise RunLocally(*refusal)
    _check_input(scan)
    _check_outputs(scan)
    language = _language(scan, cxx)
    _check_combination(scan, language, folder)
    command = Command(scan, language, cxx, environ)
    if command.plain_bar and command.directives_only_bar:
        raise RunLocally("sanitizer", command.plain_bar)
    return command


# -- what only the preprocessed text shows -----------------------------------------------------------------------------

def _in_system_header(text, at):
    """Whether the line at this offset comes from a system header: the last line marker above it has flag 3."""
    marker = text.rfind(b"\n# ", 0, at) + 1
    line = text[marker:text.find(b"\n", marker)]
    return line[:2] == b"# " and b"3" in line.rpartition(b'"')[2].split()


def _in_compilers_folder(text, at):
    """Whether the line at this offset is of gcc's own headers: .../gcc/TARGET/VERSION/include/NAME."""
    marker = text.rfind(b"\n# ", 0, at) + 1
    folders = bytes(text[marker:text.find(b"\n", marker)]).partition(b'"')[2].split(b"/")
    return folders[-2:-1] == [b"include"] and folders[-5:-4] == [b"gcc"]


# Those of gcc's preprocessor, and those that Guards looks for.
PREPROCESSOR_WARNINGS = tuple(b'"-W%s"' % name.encode() for name in (
    "undef unused-macros date-time comment comments trigraphs multichar expansion-to-defined cpp"
    " builtin-macro-redefined literal-suffix endif-labels variadic-macros normalized bidi-chars"
    " bidi-chars= traditional deprecated pedantic invalid-pch c90-c99-compat c99-c11-compat"
    " misleading-indentation multistatement-macros").split())


def _gcc_pragma(text):
    """The reason by which a #pragma GCC keeps the text of plain -E here, or None. It has every
    pragma, _Pragma too, in this one form. gcc's own intrinsics have hundreds of "GCC target", each
    undone by a pop, with no #if that would see it; of other headers, the system's too, this cannot
    be known."""
    needle = b"#pragma GCC "
    at = text.find(needle)
    while at >= 0:
        at += len(needle)
        word = text[at:at + 6]
        if word == b"pch_pr":
            return "pch"
        if word == b"diagno":
            line = bytes(text[at:text.find(b"\n", at)])
            if b"ignored" not in line and any(name in line for name in PREPROCESSOR_WARNINGS):
                return "diagnostic-pragma"
        if word in (b"target", b"optimi") and not _in_compilers_folder(text, at):
            return "target-pragma"
        at = text.find(needle, at)
    return None


def _assembler_reads(text):
    """The directive by which the assembler would read a file (in an asm statement, or in assembler source), or ""."""
    at = text.find(b".inc")
    while at >= 0:
        follows = text[at + 4:at + 9]
        if follows[:3] == b"bin":
            return ".incbin"
        # a.include(b) is C++: as a directive it comes first in its line, string or statement.
        before = text[max(at - 2, 0):at]
        if follows[:4] == b"lude" and follows[4:] in (b" ", b"\t", b'"', b"\\"):
            if before in (b"\\n", b"\\t") or before[-1:] in (b"\n", b"\t", b" ", b'"', b";", b":"):
                return ".include"
        at = text.find(b".inc", at + 4)
    return ""


# What becomes part of the program: where it stands, in lines and columns that plain -E changes, or in names that it
# does not map (-fmacro-prefix-map).
PLACES = (b"__builtin_COLUMN", b"__builtin_LINE", b"__builtin_source_location")
PLACES_OF_CLANG = (b"__builtin_FILE",)


def _own(text, word, follows=b""):
    """Whether a word stands in the text outside of system headers; behind it one of the bytes in `follows`, if any."""
    at = text.find(word)
    while at >= 0:
        at += len(word)
        if (not follows or text[at:at + 1] in follows) and not _in_system_header(text, at):
            return True
        at = text.find(word, at)
    return False


def _warns_of_includes(text):
    """What clang warns of, unasked, only where it stands in an included file, or b"": once preprocessed it is none."""
    pushed, popped = text.count(b"#pragma pack(push"), text.count(b"#pragma pack(pop")
    if pushed != popped or _own(text, b"#pragma pack(", b"0123456789"):
        return b"#pragma pack"                              # not put back at the file's end, perhaps
    return next((word for word in (b"_Nonnull", b"_Nullable") if _own(text, word)), b"")


# -- what the compiler says of a text's layout, by lines and columns that the text has not

# Words before a guard's bracket, as they are looked for, and what may stand before it in its line.
GUARDS = (b"if (", b"if(", b"else", b"for (", b"for(", b"while (", b"while(")
BEFORE_GUARD = (b"", b"else", b"} else", b"}else"), (b"", b"}")    # the latter before an else
GUARD_WITHIN = 1000                     # bytes of a line: what begins after these is in its midst
GUARD_LONGEST = 4000                    # bytes: a guard whose brackets are open still is in doubt
NOT_BRACKETS = bytes(set(range(256)) - set(b"()[]{}"))
UNCOUNTED = [b"\\\\", b'\\"', b"\\'", b"'\"'", *(b"'%c'" % char for char in b"()[]{};")]


def unquoted_line(line):
    """The line with nothing between its quotes, roughly: enough to count brackets."""
    if b'"' in line or b"'" in line:
        for pair in UNCOUNTED:
            line = line.replace(pair, b"")
        line = b'""'.join(line.split(b'"')[::2])
    return line


def several(line):
    """Whether there is more than one statement in it, outside of brackets."""
    depth, parts = 0, line.split(b";")
    for at, part in enumerate(parts[:-1], 1):
        brackets = part.translate(None, NOT_BRACKETS)
        depth += 2 * len(brackets.translate(None, b")]}")) - len(brackets)
        after = parts[at].lstrip()
        if not depth and after and not after.startswith((b"}", b"else")):
            return True
    return False


def empty_body(line):
    """Whether nothing stands between the brackets of a guard and the semicolon."""
    brackets, depth = line.translate(None, NOT_BRACKETS), 0
    for at, char in enumerate(brackets, 1):
        depth += 1 if char in b"([{" else -1
        if not depth:
            return at == len(brackets) and line.rstrip(b"; ").endswith(b")")
    return False


def begins_statement(words):
    return not words.startswith((b"}", b"else", b"case", b"default", b";", b"#"))


class Guards:
    """Whether a statement looks guarded by an if, else, for or while, and is not, in text of plain
    -E. gcc never says so of that (-Wmisleading-indentation, -Wmultistatement-macros), and clang not
    where tabs decide, nor that a body is empty (-Wempty-body). What is in doubt looks so.
    read(path) -> bytes of a source file, OSError."""

    def __init__(self, text, read, empty):
        self.read, self.empty = read, empty     # empty: whether an empty body counts by itself
        self.begins, parts, at = [], [], 0      # (position in lines, line marker) of each part
        for part in text.split(b"\n# "):
            end = part.find(b"\n")
            marker = part[:end].lstrip(b"# ")   # the first has that yet
            if end > 0 and marker[:1].isdigit() and not marker.endswith((b" 3", b" 3 4")):
                parts.append(part[end:])
                self.begins.append((at, marker))
                at += len(part) - end
        self.lines = b"".join(parts) + b"\n"    # all but system headers, each behind its line feed
        self.sources, self.part = {}, 0         # {path: its lines}; the part last asked for
        self.before = 0                         # line feeds before that
        self.counted = 0, 0                     # position in lines, line feeds before it

    def misleads(self):
        lines = self.lines
        for word in GUARDS:
            at = lines.find(word)
            while at >= 0:
                if lines[at - 1:at] in b" \n}:" and not self.harmless(word, at) and self.looks(at):
                    return True
                at = lines.find(word, at + 1)
        return False

    def harmless(self, word, at):
        """Whether the body is in braces, or is one statement that ends with its line and the text
        goes on where the guard began: nearly all of them, and quick to be seen."""
        lines = self.lines
        begin = lines.rfind(b"\n", max(0, at - GUARD_WITHIN), at) + 1
        if not begin:
            return True                                     # or a line of many would take long
        end = lines.find(b"\n", at)
        ends = lines.count(b";", at, end) if lines[end - 1] == 123 else 1           # {
        if not ends or ends == 2 and word[:3] == b"for":
            return True
        before = lines[begin:at].lstrip()
        if before.rstrip() not in BEFORE_GUARD[word == b"else"] and before[-2:] != b": ":
            return True                                     # in the midst of a line
        if word == b"else" and lines[at + 4:at + 8].lstrip()[:2] == b"if":
            return True                                     # it is looked at by its if
        indent, body = at - begin - len(before), at
        if lines[end - 1] == 41 or lines[end - 4:end] == b"else":   # )
            body = end + 1
            while lines[body:body + 1] == b"\n":
                body += 1
            end = lines.find(b"\n", body)
        elif self.empty and lines[end - 2:end] in (b");", b" ;"):
            return False                                    # a call, or no body
        if lines[end - 1] != 59 or lines.find(b";", body, end - 1) >= 0:
            return False
        after = lines[end + 1:end + 200].lstrip(b"\n")
        words = after.lstrip()
        return words[:1] == b"}" or len(after) - len(words) == indent and words[:1] != b"{"

    def looks(self, at):
        """The same, closely, of the guard there: what follows in lines indented more than it."""
        lines, depth, header = self.lines, 0, b""
        guard = begin = lines.rfind(b"\n", 0, at) + 1
        while begin < len(lines):                           # its brackets; a body that follows them
            end = lines.find(b"\n", begin)
            line = unquoted_line(lines[begin:end].rstrip())
            header += line
            depth += line.count(b"(") - line.count(b")")
            begin = end + 1
            if begin - guard > GUARD_LONGEST and depth > 0:
                return True
            if depth <= 0 and line.endswith((b")", b"else", b";", b"{", b"}")):
                break
        begin += len(lines[begin:begin + 200]) - len(lines[begin:begin + 200].lstrip(b"\n"))
        after = lines[begin:begin + 200].lstrip()
        if header[-1:] in b"{}" or not after:
            return several(header)                          # if (x); {
        if header[-1:] != b";":
            return after[:1] != b"{" and self.body_looks(begin, self.column(guard))
        if several(header) and not header.lstrip().startswith((b"}", b"case", b"default")):
            return True
        empty = empty_body(header)
        if self.empty and empty and b"if" in header[:header.find(b"(")]:
            return True
        indent = self.column(begin) - self.column(guard)
        beside = empty and not indent and after[:1] == b"{"
        return begins_statement(after) and (indent > 0 or beside)

    def body_looks(self, begin, outer):
        """Whether the statement that begins there, right of column `outer`, is followed by one in
        its own column."""
        lines = self.lines
        end, column = lines.find(b"\n", begin), self.column(begin)
        words = before = lines[begin:end].strip()
        if several(unquoted_line(words)):
            return True
        while column > outer and end + 1 < len(lines):
            before, begin = words or before, end + 1
            end = lines.find(b"\n", begin)
            words = lines[begin:end].strip()
            if not words or words[:1] == b"#":
                words = b""
                continue
            here = self.column(begin)
            if here == column and before[-1:] in b";}" and begins_statement(words):
                return True
            if here <= outer:
                break
        return False

    def column(self, begin):
        """Where a line begins, to the eye. -E writes one blank for a tab, which is no matter where
        all lines have either."""
        line = self.lines[begin:self.lines.find(b"\n", begin)]
        begins, at = self.begins, self.part
        while at and begins[at][0] >= begin:
            at -= 1
        while at + 1 < len(begins) and begins[at + 1][0] < begin:
            at += 1
        if at != self.part:
            self.part, self.before = at, self.line_feeds(begins[at][0])
        number, _, name = begins[at][1].partition(b' "')
        source = self.lines_of(name.rpartition(b'"')[0])
        if source and number.isdigit():
            number = int(number) + self.line_feeds(begin) - self.before - 2
            if number < len(source):
                line = source[number].expandtabs(8)
        return len(line) - len(line.lstrip())

    def line_feeds(self, end):
        """How many come before it, counted from where that was asked last: it is near, mostly."""
        at, count = self.counted
        count += self.lines.count(b"\n", at, end) - self.lines.count(b"\n", end, at)
        self.counted = end, count
        return count

    def lines_of(self, path):
        """Of a file that has tabs and blanks before its lines, else ()."""
        if path not in self.sources:
            try:
                text = self.read(path)
            except OSError:
                text = b""
            mixed = b"\n\t" in text and b"\n  " in text
            self.sources[path] = text.split(b"\n") if mixed else ()
        return self.sources[path]


def content_refusal(text, command, mode="plain", first=True, read=None):
    """(reason, detail) where the preprocessed text of this mode keeps it here, or None. `first`: it is the text's
    beginning, not a later piece. read(path) -> bytes of a source file, for Guards.

    Two searches for rare words, together about 1 ms per MB (find takes 0.4 to 0.7 ms per MB and word; re is not
    imported here, and no quicker). Words glued by the compiler, such as ".inc" "bin", are left to the server's
    containment."""
    directive = _assembler_reads(text)
    if directive:
        return "incbin", directive
    reason = _gcc_pragma(text) if command.family == "gcc" and mode == "plain" else None
    if reason:
        return reason, "#pragma GCC"
    if mode == "plain" and not command.preprocessed:
        for word in PLACES + (PLACES_OF_CLANG if command.family == "clang" else ()):
            if text.find(word) >= 0:
                return "place", word.decode()
        word = _warns_of_includes(text) if command.family == "clang" else b""
        if word:
            return "include-warning", word.decode()
    if command.layout and mode == "plain":
        if Guards(text, read, command.family == "clang").misleads():
            return "layout-warning", command.source
    if bytes(text[-9:]).rstrip().endswith(b"\\"):
        return "last-line", command.source
    if command.preprocessed and first:
        lines = bytes(text[:8192]).split(b"\n", 2)
        if not lines[0].startswith((b"# ", b"#line ")):
            return "no-line-markers", command.source        # its name, and so the object, would be the server's
        if command.names_folder and b'//"' not in b"".join(lines[1:2]):
            return "preprocessed-folder", command.source
    return None


# What -fdirectives-only loses or expands in the second stage (each tried with gcc 12): pragmas whose words are macro
# expanded, which it drops from the text, or that act on macros (omp and acc do only with flags that bar the mode), and
# the macros that tell of this machine, this moment or the file's place.
DIRECTIVES_ONLY_PRAGMAS = (b"push_macro", b"pop_macro", b"redefine_extname", b"message", b"scalar_storage_order")
DIRECTIVES_ONLY_MACROS = (b"__TIME__", b"__DATE__", b"__TIMESTAMP__", b"__BASE_FILE__", b"__INCLUDE_LEVEL__")


def _odd_pragma(text, at):
    """Whether the pragma, or _Pragma, whose "ragma" begins here is one of these, one that changes
    macros in one stage, or not to be told: of a macro's making, or with a comment in it."""
    word = text[at + 5:at + 80].lstrip(b" \t(")
    if text[at - 2:at] == b"_P" and word[:1] != b'"' and not (
            word.startswith(b"#message)")                   # glibc's cdefs.h makes messages by it,
            or text[at - 18:at] == b"_PSTL_PRAGMA(x) _P"):  # and libstdc++'s algorithms OpenMP's
        return True
    word = word.lstrip(b'" \t')
    if word[:3] == b"GCC" and word[3:4].isspace():
        word = word[3:].lstrip(b" \t")
        if word.startswith(b"diagnostic"):                  # the preprocessor does not know it with -E
            return word[10:].lstrip(b" \t").startswith((b"warning", b"error"))
        return word.startswith((b"target", b"optimize", b"pch_pre", b"/", b"\\"))
    return word.startswith((*DIRECTIVES_ONLY_PRAGMAS, b"/", b"\\", b"GCC/", b"GCC\\"))


def directives_only_refusal(text):
    """What in a source file or header may compile to something else by -fdirectives-only than after plain -E, or b"".
    Comments count, too. About 2 ms for a MB that has none of it."""
    at = text.find(b"ragma")
    while at >= 0:
        if _odd_pragma(text, at):
            return bytes(text[at:at + 40].splitlines()[0])
        at = text.find(b"ragma", at + 5)
    for macro in DIRECTIVES_ONLY_MACROS:
        if text.find(macro) >= 0:
            return macro
    return b""


def unremarkable(text):
    """Whether a source file or header may go through -fdirectives-only unseen: it has nothing that the functions above
    look for."""
    return not (directives_only_refusal(text) or _assembler_reads(text))


# -- the server's table ------------------------------------------------------------------------------------------------
# An allow-list by shape. What has no shape here is refused by name, whether or not it would do harm. A job of a client
# of ours always passes; real distcc clients also send options that are without use after preprocessing: these are left
# out. distcc 3.4 sends as they stand joined values (-includex.h, -iquoted, -oa.o), long spellings, and the linker's.

SERVED_FLAGS = frozenset(
    "-w -W -ansi -pedantic -pedantic-errors -pipe -pthread -pthreads -p -pg -trigraphs -Qn -Qy -Qunused-arguments"
    " -EL -EB -no-integrated-as -integrated-as -traditional-cpp -fpreprocessed -fdirectives-only"
    # a client of ours keeps these, whose result is not quite the same, but distcc sends them
    " -dA -dp -dP -emit-llvm -fprofile-instr-generate -fcoverage-mapping -Wdocumentation -Weverything".split())
# May take a "/" in their value only where PATHS_IN_VALUE says that it is text.
SERVED_BEGINNINGS = ("-O", "-f", "-m", "-g", "-G", "-W", "-std=", "--std=", "--param=", "--target=")
SERVED_WITH_VALUE = frozenset(("--param", "--std", "-target", "-arch", "-G"))
# Verdicts of the client's table on what stage 1 alone is told, or nobody after it: the compiler never sees it.
UNUSED_VERDICTS = frozenset((FIRST, NEITHER, "on_output", "on_joined_output", "on_verbose_asm", "on_dependency_flag",
                             "on_depfile", "on_joined_depfile", "on_target", "on_joined_target"))
# The same, where it would be a reason to compile at home. -Xpreprocessor: distcc 3.4 takes away the word behind it.
# -fverbose-asm would quote lines of any file that a line marker names; in the text of -S only, so it is no loss.
UNUSED_FLAGS = frozenset("-P -C -CC -no-integrated-cpp -v -H -Q -time -Xpreprocessor".split())
OBJECTIVE_C = {"-ObjC": "objective-c", "-ObjC++": "objective-c++"}
SERVED_ASSEMBLER_WORDS = ("-g", "--gen-debug", "--gdwarf-", "--statistics")     # name the job's folder, or talk
# Without sources a compiler quotes no lines; with a line marker as bait it would quote those of any file it may read.
NO_CARETS = {"gcc": "-fno-diagnostics-show-caret", "clang": "-fno-caret-diagnostics"}


def _refused_beginning(word):
    """Why a word of a served beginning is refused all the same, or None: what the client's tables keep local writes,
    reads or loads something; a path in a value does so in options that no table knows yet."""
    _, beginnings, rows = FAMILIES.get(word[1], (None, (), ()))
    if word.startswith(beginnings):
        verdict = next(row for beginning, row in rows if word.startswith(beginning))
        if verdict in LOCAL_REASONS:
            return LOCAL_REASONS[verdict]
    if "/" in word and not word.startswith(PATHS_IN_VALUE):
        return "a path in the value"
    if word.startswith("-Wa,"):
        bad = bad_assembler_word(word.split(",")[1:], ASSEMBLER_WORDS + SERVED_ASSEMBLER_WORDS)
        return None if bad is None else f"assembler option {bad}"
    if word.startswith("-Wp,"):
        return "options for the preprocessor itself"
    return None


def _check_value(option, value):
    """RefusedArgument unless this option that takes a value may have this one."""
    if option == "-Xclang":
        good = value in CC1_WORDS
    elif option == "-mllvm":
        good = value.startswith(LLVM_WORDS) and "/" not in value
    elif option == "-Xassembler":
        good = bad_assembler_word([value]) is None
    else:
        # Not an @FILE: compilers put its words in its place, whatever comes before it, and the job's
        # source may be that file. Nor an option, which it is for a compiler that takes no such value.
        good = value[:1] not in ("@", "-") and (option == "-fdebug-compilation-dir" or "/" not in value)
    if not good:
        raise RefusedArgument(f"{option} {value}", "not in the table of values")


SERVED_VALUES = SERVED_WITH_VALUE | {"-Xclang", "-mllvm", "-Xassembler", "-fdebug-compilation-dir"}


def _verdict(word):
    """(verdict of the client's tables, number of words that are its value)."""
    if word in OPTIONS:
        return OPTIONS[word]
    verdict, beginnings, rows = FAMILIES.get(word[1:2], ("option", (), ()))
    if word.startswith(beginnings):
        verdict = next(row for beginning, row in rows if word.startswith(beginning))
    return verdict, 0


def _served_language(source, given, cxx):
    """The kind of preprocessed text, for -x."""
    suffix = source.rpartition(".")[2]
    language = given or SUFFIXES.get(suffix)
    if given == "assembler":                    # only a client of ours says so, of text that was preprocessed
        return given
    if language not in STAGE_2 or (language == "assembler-with-cpp"):
        raise RefusedArgument(given or source, "a language that is not served")
    if cxx and not given:
        language = CXX_DRIVER.get(language, language)
    return STAGE_2[language][0]


def serve_args(args, family, cxx=False):
    """What a server runs for a job's arguments (without the compiler): (arguments, file name, kind of text).

    The arguments end in -c or -S, -x KIND and the file name, under which the server writes the text in the job's empty
    folder; it appends -o itself. The name is the source's with .i or the like: only then does clang take the source's
    name for the debug information from the first line marker (gcc always does). cxx: the compiler is a C++ driver.
    RefusedArgument names what is not served."""
    result, sources, language, stop, words = [], [], None, "", iter(_shorten(args))
    for word in words:
        if "\0" in word:
            raise RefusedArgument(word, "holds a NUL byte")
        verdict, values = _verdict(word)
        value = next(words, "\0") if values and word not in UNUSED_FLAGS else ""
        if "\0" in value:
            raise RefusedArgument(word, "lacks its value")
        if word[:1] != "-":
            sources.append(word)
        elif word in ("-c", "-S"):
            stop = "-S" if "-S" in (stop, word) else "-c"
        elif word in OBJECTIVE_C:
            language = OBJECTIVE_C[word]
        elif verdict in ("on_language", "on_joined_language"):
            language = value or word[2:]
        elif word in SERVED_VALUES:
            _check_value(word, value)
            result += (word, value)
        elif word in SERVED_FLAGS:
            result.append(word)
        elif verdict in UNUSED_VERDICTS or word in UNUSED_FLAGS:
            continue
        elif word.startswith(SERVED_BEGINNINGS):
            why = _refused_beginning(word)
            if why or word in OPTIONS and OPTIONS[word][0] in LOCAL_REASONS:
                raise RefusedArgument(word, why or LOCAL_REASONS[OPTIONS[word][0]])
            result.append(word)
        else:
            raise RefusedArgument(word, LOCAL_REASONS.get(verdict, "not in the table"))
    if not stop or len(sources) != 1:
        raise RefusedArgument(sources[1] if len(sources) > 1 else "-c", "one source and -c or -S are served")
    name = basename(sources[0])
    if name in ("", ".", "..") or name[0] in "-@":
        raise RefusedArgument(sources[0], "no file name")
    kind = _served_language(name, language, cxx)
    if family == "gcc" or kind != "assembler":  # clang says that for the assembler it is unused
        result.append(NO_CARETS[family])        # after the job's own words: the last one counts
    name += KIND_SUFFIX[kind]
    return [*result, stop, "-x", kind, name], name, kind


_VERDICTS = ({verdict for verdict, _ in OPTIONS.values()} | {family[0] for family in FAMILIES.values()}
             | {verdict for family in FAMILIES.values() for _, verdict in family[2]})
assert all(verdict in (NEITHER, FIRST, BOTH) or verdict in LOCAL_REASONS or hasattr(_Scan, verdict)
           for verdict in _VERDICTS), "a verdict that is no stage, no reason and no method"
assert {kind for kind, _ in STAGE_2.values()} == set(KIND_SUFFIX)
assert set(SUFFIXES.values()) | set(CXX_DRIVER.values()) <= set(STAGE_2), "a language without a second stage"
assert set((*SUFFIX_REASONS.values(), *LANGUAGE_REASONS.values(), *MODES)) <= set(LOCAL_REASONS)
assert all(OPTIONS[short][1] == 1 for short in LONG_WITH_VALUE.values()), "a long spelling of a word without value"

REASONS.update(LOCAL_REASONS)


# ---- compiler identity

# Whose `as --version` hides the package's revision, so that a security update changes objects and no word. Their
# binaries are the same on every machine, so their bytes can count. (Elsewhere the words must do: two Gentoo machines
# compile the same sources to other bytes, and would never meet.) Of gcc the distributions' -v names the revision.
NAMELESS_ASSEMBLERS = (b"for Debian", b"for Ubuntu")


# What a compiler is asked who it is with: its version, and what it would run for the plainest compile.
VERSION_WORDS = ("-v", "-###", "-c", "-x", "c", "/dev/null")


def is_wrapper(version_text, path, real):
    """Whether what was called `path` (with its links followed: `real`) has another compiler answer VERSION_WORDS: it
    may add options, and has the other's identity. gcc tells by which name it was called, clang which file runs."""
    for line in version_text.splitlines():
        if line.startswith(b"COLLECT_GCC="):
            return line[12:] != path
        if line.startswith(b' "') and b'" "-cc1' in line:
            apple = version_text.startswith(b"Apple ")      # there xcrun comes between, and adds none
            return line[2:].partition(b'"')[0] != real and not apple
    return False


def identity_of(version_text, assembler_text, cxx, assembler=b""):
    """8 bytes over what a compiler answers VERSION_WORDS under LC_ALL=C and, for gcc, `as --version`, and for some the
    bytes of its file, `assembler`: equal identity, equal objects.

    Lines that tell where a program lies rather than what it is are left out, but not COLLECT_GCC_OPTIONS, where a
    wrapper by gcc's name shows; the name is reduced to C or C++ driver."""
    import hashlib                                  # the client asks only once per compiler
    passed_over = (b" ", b"COLLECT_GCC=", b"COLLECT_LTO_WRAPPER=", b"COMPILER_PATH=", b"LIBRARY_PATH=",
                   b"InstalledDir:", b"Found ", b"Candidate ", b"Selected ")
    lines = [line.strip() for line in version_text.splitlines() if not line.startswith(passed_over)]
    said = assembler_text.splitlines()[:1]
    if said and any(name in said[0] for name in NAMELESS_ASSEMBLERS):
        said.append(hashlib.sha256(assembler).digest())     # 1 ms
    text = b"\n".join([b"C++" if cxx else b"C", *lines, b"as:", *said])
    return hashlib.sha256(text).digest()[:IDENTITY_BYTES]


# ==== 5. Statistics =================================================================================================
# How long a job takes on a host: speed per KB from CPU time, slowdown by load, class factors, bandwidth. No IO, no
# clock. Together these are the table of 2004, "per K at various loads", with one fast parameter a host and the rest
# pooled.

def stretch_prior(jobs, cores):
    """Slowdown g(n) of each of `jobs` on `cores` before it is measured: 1 up to half the cores, 1.6 at all (SMT)."""
    share = jobs / max(cores, 1)
    if share <= 0.5:
        return 1.0
    return 1.0 + 1.2 * (share - 0.5) if share <= 1.0 else 1.6 * share


def clipped(value, centre, ratio=RESIDUAL_CLIP):
    return min(max(value, centre / ratio), centre * ratio)


def possible_k(k):
    """Seconds per KB within what any box can have: others tell of theirs."""
    return min(max(k, 1e-6), 10.0)


def checked_number(x, least=0.0, most=1e18):
    if not isinstance(x, (int, float)) or isinstance(x, bool) or not least <= x < most:
        raise ValueError("%r is no plausible number" % (x,))
    return x


def sound_rows(rows, read, most=None):
    """{key: read(row)} of the first `most`, without those that this program cannot have written. AttributeError where
    it is no dict."""
    found = {}
    for key, row in list(rows.items())[:most]:
        try:
            found[str(key)] = read(row)
        except (KeyError, TypeError, ValueError):       # KeyError: a dict, sliced, from Python 3.12 on
            continue
    return found


class Mean:
    """A mean that forgets: of the last 1/decay values or so; of all as long as they are fewer."""
    __slots__ = ("value", "count", "decay")

    def __init__(self, decay=0.05):
        self.value, self.count, self.decay = 0.0, 0, decay

    def add(self, value):
        self.count += 1
        self.value += (value - self.value) * max(self.decay, 1 / self.count)


class Contention:
    """E/C, elapsed over CPU time, by jobs per core, in buckets; shrunk to the prior. Pooled over all hosts."""
    BUCKETS = 7                         # to a quarter of a job per core, a half, and so on; the last is open above
    __slots__ = ("sums", "counts")

    def __init__(self):
        self.sums = [0.0] * self.BUCKETS
        self.counts = [0.0] * self.BUCKETS

    def bucket(self, share):
        return min(max(math.ceil(share * 4) - 1, 0), self.BUCKETS - 1)

    def observe(self, jobs, cores, ratio):
        i = self.bucket(jobs / max(cores, 1))
        fade = 1 - SPEED_DECAY / 3
        self.sums[i] = self.sums[i] * fade + clipped(ratio / stretch_prior(jobs, cores), 1.0)
        self.counts[i] = self.counts[i] * fade + 1

    def stretch(self, jobs, cores):
        """g(n): how many times longer a job takes with `jobs` on `cores` than alone."""
        i = self.bucket(jobs / max(cores, 1))
        factor = (CONTENTION_PRIOR_JOBS + self.sums[i]) / (CONTENTION_PRIOR_JOBS + self.counts[i])
        return stretch_prior(jobs, cores) * factor


class Classes:
    """Factor m of a job class (language, optimisation, debug) over the mean job: ln m += r / (k + 8)."""
    __slots__ = ("logs",)
    MOST = 500

    def __init__(self):
        self.logs = {}                  # class: [ln m, jobs]

    def factor(self, job_class):
        row = self.logs.get(job_class)
        return math.exp(row[0]) if row else 1.0

    def observe(self, job_class, residual):
        """`residual`: CPU time over what was predicted with the present factor."""
        if len(self.logs) >= self.MOST and job_class not in self.logs:
            self.logs.pop(next(iter(self.logs)))
        row = self.logs.setdefault(job_class, [0.0, 0])
        row[0] += math.log(clipped(residual, 1.0)) / (row[1] + CLASS_PRIOR_JOBS)
        row[1] = min(row[1] + 1, 200)


class Sources:
    """CPU time of each source relative to its class and size, remembered for rebuilds; the least recently used go."""
    __slots__ = ("rows",)

    def __init__(self):
        self.rows = {}                  # key: (factor, size in KB)

    def recall(self, key):
        """(factor, KB) or None."""
        row = self.rows.pop(key, None)
        if row is not None:
            self.rows[key] = row
        return row

    def remember(self, key, factor, size_kb):
        old = self.rows.pop(key, None)
        factor = clipped(factor, 1.0)
        self.rows[key] = (0.5 * (factor + old[0]) if old else factor, size_kb)
        if len(self.rows) > SOURCES_REMEMBERED:
            self.rows.pop(next(iter(self.rows)))


def memory_step(mb):
    """The least of 101, 151, 227, 341, 512, 768 .. MB that is enough: jobs of one step take each other's slots."""
    steps = math.ceil(math.log(max(mb, MEMORY_LEAST_MB) / MEMORY_PER_JOB_MB, MEMORY_STEP) - 1e-9)
    return int(MEMORY_PER_JOB_MB * MEMORY_STEP ** steps)


class PeakMemory:
    """Memory that a compiler needs, by job class: what nine of the last ten jobs did with."""
    __slots__ = ("rows",)
    SERVED = ""                         # the class under which a server counts all that it ran

    def __init__(self):
        self.rows = {}                  # class: peaks of its last jobs in MB, the oldest first

    def observe(self, job_class, peak_mb):
        row = self.rows.pop(job_class, [])
        self.rows[job_class] = row[-MEMORY_JOBS_KEPT + 1:] + [peak_mb]
        if len(self.rows) > Classes.MOST:
            self.rows.pop(next(iter(self.rows)))

    def need_mb(self, job_class):
        row = self.rows.get(job_class, [])
        known = sorted(row + [MEMORY_PER_JOB_MB] * (MEMORY_PRIOR_JOBS - len(row)))
        return memory_step(known[len(known) * 9 // 10])


class JobFigures:
    """What is known when a job has ended well. Seconds and KB; cpu, elapsed, queue are None from a plain distccd."""
    __slots__ = ("size_kb", "job_class", "source_key", "total_s", "queue_s", "elapsed_s", "cpu_s", "concurrency",
                 "peak_mb", "wire_kb", "sent_kb", "predicted_s")

    def __init__(self, size_kb, job_class, source_key, total_s, wire_kb, predicted_s):
        self.size_kb, self.job_class, self.source_key = size_kb, job_class, source_key
        self.total_s, self.wire_kb, self.predicted_s = total_s, wire_kb, predicted_s
        self.queue_s = self.elapsed_s = self.cpu_s = None
        self.concurrency, self.peak_mb = 1.0, 0
        self.sent_kb = math.inf                     # of the source, as it went; where it was measured

    def packing_s(self):
        """What zlib took on both ends, which is no fault of the link."""
        return self.size_kb / 1024 * PACKING_MS_PER_MB / 1e3 if self.sent_kb < self.size_kb / 2 else 0.0

    def timed(self, times):
        """Take a server's Times."""
        self.queue_s, self.elapsed_s, self.cpu_s = times.queue_ms / 1e3, times.elapsed_ms / 1e3, times.cpu_ms / 1e3
        self.concurrency, self.peak_mb = times.concurrency, times.peak_kb >> 10
        return self


class HostFigures:
    """One host: speed, link, means for display. `prior_k` (seconds per KB) is what it says of itself (`told`), else the
    farm's median."""
    __slots__ = ("kb_sum", "cpu_sum", "samples", "prior_k", "told", "rtt", "wire_kb_sum", "wire_s_sum", "queue",
                 "compile", "transfer", "error", "by_load", "job_s", "drift", "pace")
    LOADS = ((0.5, "to 0.5"), (1.0, "to 1.0"), (1.5, "to 1.5"), (float("inf"), "over 1.5"))

    def __init__(self):
        self.kb_sum = self.cpu_sum = 0.0            # KB and CPU seconds over class factor, decayed 3 % a job
        self.samples = 0
        self.drift = 0.0                            # recent mean of ln(measured / predicted)
        self.prior_k, self.told = MS_PER_KB_PRIOR / 1e3, False
        self.rtt = Mean(0.1)                        # seconds, from request to answer of an admission
        self.wire_kb_sum = self.wire_s_sum = 0.0
        self.queue, self.compile, self.transfer = Mean(), Mean(), Mean()
        self.error = Mean()                         # |predicted - actual| / actual
        self.job_s = Mean(0.1)                      # a job's whole time there, for the wait
        self.pace = Mean(0.1)                       # elapsed over what CPU time and load explain (a quota, a starved
                                                    # VM); of a plain distccd: whole time over CPU time as predicted
        self.by_load = [[0.0, 0.0, 0] for _ in self.LOADS]      # elapsed seconds, KB, jobs by jobs per core

    def to_row(self):
        """Numbers for the state file."""
        return [self.kb_sum, self.cpu_sum, self.samples, self.wire_kb_sum, self.wire_s_sum, self.rtt.value,
                self.job_s.value, self.prior_k, *(number for row in self.by_load for number in row), self.pace.value]

    @classmethod
    def from_row(cls, row):
        """The reverse; the pace may be missing. Raises ValueError, TypeError."""
        new = cls()
        (new.kb_sum, new.cpu_sum, samples, new.wire_kb_sum, new.wire_s_sum, rtt, job_s, prior_k,
         *loads) = map(checked_number, row)
        new.samples, new.prior_k = int(samples), possible_k(prior_k)
        most = 3 * len(new.by_load)
        if len(loads) not in (most, most + 1):
            raise ValueError("%d figures by load" % len(loads))
        new.by_load = [[loads[i], loads[i + 1], int(loads[i + 2])] for i in range(0, most, 3)]
        for mean, value in ((new.rtt, rtt), (new.job_s, job_s), (new.pace, sum(loads[most:]))):
            if value:                       # else it never was measured
                mean.add(value)
        return new

    def measured(self):
        return self.told or self.samples >= UNKNOWN_HOST_RESULTS

    def known(self):
        """Whether it has shown how it does, if only by jobs that are too small to measure."""
        return self.measured() or self.job_s.count >= UNKNOWN_HOST_RESULTS

    def k(self):
        """Seconds of CPU per KB."""
        prior_kb = KB_PRIOR if self.told else KB_PRIOR_BLIND
        return (prior_kb * self.prior_k + self.cpu_sum) / (prior_kb + self.kb_sum)

    def bandwidth(self):
        """KB per second."""
        prior_s = 0.02                              # weighs as much as a fiftieth of a second of transfers
        return (BANDWIDTH_PRIOR_KB_S * prior_s + self.wire_kb_sum) / (prior_s + self.wire_s_sum)

    def compresses(self):
        """Whether the link is so slow that compressing the source pays."""
        return self.bandwidth() < COMPRESS_BELOW_KB_S

    def transfer_s(self, size_kb):
        """Predicted seconds on the wire of a source of so many KB, and of its object."""
        return size_kb * (COMPRESSED_WIRE if self.compresses() else PLAIN_WIRE) / self.bandwidth()


class Statistics:
    """All that is learnt. observe() takes a job's figures in, predict() says how long one will take."""

    def __init__(self):
        self.hosts = {}                             # key of a host: HostFigures
        self.known_hosts = self.known_at_median = 0     # that have shown their speed, now and at the last median
        self.median_k = MS_PER_KB_PRIOR / 1e3       # their median: what a new one starts with
        self.contention, self.classes, self.sources = Contention(), Classes(), Sources()
        self.memory = PeakMemory()
        self.preprocess = Mean()                    # seconds of preprocessing per job on this box
        self.remote = Mean()                        # seconds of a remote job as a whole

    def host(self, key):
        if key not in self.hosts:
            if len(self.hosts) >= FIGURES_REMEMBERED:
                self.hosts.pop(next(iter(self.hosts)))
            self.hosts[key] = figures = HostFigures()
            figures.prior_k = self.median_k
        return self.hosts[key]

    def host_used(self, key):
        """The same of a host that has done a job: who did none for longest is forgotten first."""
        figures = self.hosts[key] = self.hosts.pop(key, None) or self.host(key)
        return figures

    def one_more_known(self):
        """Another host has shown its speed. The median is worked out anew as these grow in number by a tenth: of a
        thousand hosts that takes a millisecond."""
        self.known_hosts += 1
        if self.known_hosts >= 1.1 * self.known_at_median:
            self.take_median()

    def take_median(self):
        """A host of which nothing is known is taken to be as fast as the others."""
        known = sorted(host.k() for host in self.hosts.values() if host.measured())
        self.known_hosts = self.known_at_median = len(known)
        if known:
            self.median_k = known[len(known) // 2]
            for host in self.hosts.values():
                if not host.samples and not host.told:
                    host.prior_k = self.median_k

    def told(self, key, kb_sum, cpu_s):
        """A host has published its own sums: so a newcomer is known to all once it has run some jobs for anybody."""
        host = self.host(key)
        if kb_sum > KB_PRIOR and cpu_s > 0 and not host.samples:
            news, host.prior_k, host.told = not host.told, possible_k(cpu_s / kb_sum), True
            if news:
                self.one_more_known()

    def weight(self, size_kb, job_class, source_key):
        """KB of the mean class that take as long as this job, on any host: KB * m."""
        known = self.sources.recall(source_key)
        return size_kb * self.classes.factor(job_class) * (known[0] if known else 1.0)

    def work(self, key, weight):
        """CPU seconds that a job of this weight takes on a host: a + KB * m * k."""
        return JOB_FIXED_S + weight * self.host(key).k()

    def observe(self, key, cores, figures):
        """Learn from a job that ended well; `cores` of the host (0: unknown)."""
        host = self.host_used(key)
        host.job_s.add(figures.total_s)
        self.remote.add(figures.total_s)
        if figures.predicted_s:
            host.error.add(min(abs(figures.predicted_s - figures.total_s) / max(figures.total_s, 1e-3), 10.0))
        if figures.cpu_s is None:                   # a plain distccd: nobody can tell its load and its speed apart
            work = self.work(key, self.weight(figures.size_kb, figures.job_class, figures.source_key))
            host.pace.add(clipped(figures.total_s / work, 1.0, RESIDUAL_CLIP ** 2))
            return
        transfer = max(figures.total_s - figures.queue_s - figures.elapsed_s, 0.0)
        self.memory.observe(figures.job_class, figures.peak_mb)
        host.queue.add(figures.queue_s)
        host.compile.add(figures.elapsed_s)
        host.transfer.add(transfer)
        if figures.wire_kb >= TRANSFER_MIN_KB:
            fade = 1 - SPEED_DECAY
            host.wire_kb_sum = host.wire_kb_sum * fade + figures.wire_kb
            host.wire_s_sum = host.wire_s_sum * fade + max(
                transfer - host.rtt.value - figures.packing_s(), TRANSFER_FLOOR_S)
        if figures.size_kb >= SMALL_JOB_KB:
            self.observe_speed(host, figures)
            if cores:
                self.observe_load(host, cores, figures)

    def observe_served(self, size_kb, job_class, cpu_s, peak_mb):
        """A compile that this box ran for somebody: what it publishes of its own speed, and its need of memory."""
        self.memory.observe(PeakMemory.SERVED, peak_mb)
        self.observe_local(size_kb, job_class, "", cpu_s)

    def observe_local(self, size_kb, job_class, source_key, cpu_s):
        figures = JobFigures(size_kb, job_class, source_key, cpu_s, 0, None)
        figures.cpu_s = cpu_s
        if size_kb >= SMALL_JOB_KB:
            self.observe_speed(self.host_used("local"), figures)

    def observe_speed(self, host, figures):
        """CPU time hardly depends on load, so few jobs are enough."""
        cpu = max(figures.cpu_s - JOB_FIXED_S, 1e-4)
        mean_factor = self.classes.factor(figures.job_class)
        predicted = figures.size_kb * host.k() * mean_factor
        residual = clipped(cpu / predicted, 1.0)
        known = self.sources.recall(figures.source_key)
        self.classes.observe(figures.job_class, residual)
        if figures.source_key:
            self.sources.remember(figures.source_key, residual, figures.size_kb)
        share = predicted * residual / mean_factor / (known[0] if known else 1.0)
        fade = 1 - SPEED_DECAY
        host.cpu_sum = host.cpu_sum * fade + share
        host.kb_sum = host.kb_sum * fade + figures.size_kb
        host.samples += 1
        if host.samples == UNKNOWN_HOST_RESULTS and not host.told:
            self.one_more_known()
        host.drift += (math.log(residual / (known[0] if known else 1.0)) - host.drift) * DRIFT_DECAY
        if abs(host.drift) > DRIFT_LIMIT:           # the host has changed: what was learnt is scaled, not forgotten
            change = math.exp(host.drift)
            host.cpu_sum, host.prior_k, host.drift = host.cpu_sum * change, host.prior_k * change, 0.0

    def observe_load(self, host, cores, figures):
        ratio = figures.elapsed_s / max(figures.cpu_s, 1e-3)
        host.pace.add(clipped(ratio / self.contention.stretch(figures.concurrency, cores), 1.0, RESIDUAL_CLIP ** 2))
        self.contention.observe(figures.concurrency, cores, ratio)
        load = figures.concurrency / cores
        row = next(row for row, (edge, _) in zip(host.by_load, HostFigures.LOADS) if load <= edge)
        row[0] += figures.elapsed_s
        row[1] += figures.size_kb
        row[2] += 1

    def to_dict(self):
        """For the state file: what is worth keeping across a restart. Plain JSON types only."""
        return {
            "format": 1,
            "hosts": {key: h.to_row() for key, h in self.hosts.items() if h.samples or h.job_s.count},
            "slowdowns": [self.contention.sums, self.contention.counts],
            "classes": self.classes.logs,
            "sources": self.sources.rows,
            "memory": self.memory.rows,
        }

    @classmethod
    def from_dict(cls, data):
        """The reverse, without rows that make no sense. Raises ValueError for what is no state at all."""
        def class_row(row):
            log, jobs = row
            return [checked_number(log, -10, 10), checked_number(jobs)]

        def source_row(row):
            factor, size_kb = row
            return checked_number(factor, 1 / 64, 64), checked_number(size_kb)
        new = cls()
        try:
            if data["format"] != 1:
                raise ValueError("format %r is not known" % data["format"])
            new.hosts = sound_rows(data["hosts"], HostFigures.from_row, FIGURES_REMEMBERED)
            sums, counts = ([checked_number(x) for x in part] for part in data["slowdowns"])
            if len(sums) == len(counts) == len(new.contention.sums):
                new.contention.sums, new.contention.counts = sums, counts
            new.classes.logs = sound_rows(data["classes"], class_row, Classes.MOST)
            new.sources.rows = sound_rows(data["sources"], source_row, SOURCES_REMEMBERED)
            new.memory.rows = sound_rows(data["memory"], lambda row: [
                checked_number(mb) for mb in row[-MEMORY_JOBS_KEPT:]], Classes.MOST)
            new.take_median()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError("no state of this program: %s" % error) from None
        return new


# ==== 6. Scheduler ==================================================================================================
# Where a job goes, who is next, and how many jobs a server takes. No IO, no clock: methods take `now` (monotonic
# seconds) and append what is to be done to `actions`; the daemon carries that out. Uses 1 to 5.
#
# Who is next, on both sides:   FairShare ranks users, FairQueue is a line of those who wait, Pool a number of places.
# The server decides:           Admission gives out its slots, each a Holder, and parks requests where there are none.
# The submitter guesses:        a Job waits in the Group of its like, for which Requests stand at Hosts; Roster says
#                               which Hosts are worth a look, Placement what each would cost, Faults what to hold
#                               against whom. Ledger keeps the books, Chooser asks hosts, Scheduler offers this box,
#                               too, and looks after what takes too long.
#
# A job on the way:  hello -> turn -> sized -> queue -> ask_one ... granted -> finished, or failed -> queue again
#                      |                        |                       |
#                      +--------- go_home ------+-----------------------+-> local -> local_ended

class FairShare:
    """Who is next among keys: fewest active jobs, then least time held in the last minute. A key
    is a uid; or (address, submitter, uid), where the address counts before the whole: what a box
    says of itself gets it no larger share."""
    MEMORY_S = 60.0

    def __init__(self):
        self.active = {}                # key, or its address: jobs it has now
        self.used = {}                  # likewise: (slot seconds, decayed; when that was computed)

    def levels(self, key):
        return (key[0], key) if isinstance(key, tuple) else (key,)

    def take(self, key):
        for level in self.levels(key):
            self.active[level] = self.active.get(level, 0) + 1

    def give(self, key, seconds, now):
        for level in self.levels(key):
            left = self.active.pop(level) - 1
            assert left >= 0, "a share was given back twice: %r" % (key,)
            if left:
                self.active[level] = left
            used = seconds + self.recent(level, now)
            self.used.pop(level, None)
            self.used[level] = (used, now)
            if len(self.used) > SHARES_KEPT:
                self.used.pop(next(iter(self.used)))    # used least recently: each goes to the end

    def recent(self, level, now):
        seconds, at = self.used.get(level, (0.0, now))
        return seconds * 0.5 ** ((now - at) / self.MEMORY_S)

    def rank(self, key, now):
        """A tuple to compare."""
        return tuple(part for level in self.levels(key)
                     for part in (self.active.get(level, 0), self.recent(level, now)))


class FairQueue:
    """Tokens that wait, each under a key. Next is one of the key that comes first by FairShare, the oldest of that."""
    __slots__ = ("keys", "lines")

    def __init__(self):
        self.keys = {}                  # token: its key
        self.lines = {}                 # key: {token: since}, in the order of coming

    def __len__(self):
        return len(self.keys)

    def __iter__(self):
        return iter(self.keys)

    def add(self, token_, key, now):
        self.keys[token_] = key
        self.lines.setdefault(key, {})[token_] = now

    def remove(self, token_):
        """(key, since), or None where it does not wait."""
        key = self.keys.pop(token_, None)
        if key is None:
            return None
        since = self.lines[key].pop(token_)
        if not self.lines[key]:
            del self.lines[key]
        return key, since

    def heads(self, fair, now):
        """The oldest token of each key, in the order of their ranks."""
        lines = self.lines
        keys = sorted(lines, key=lambda key: fair.rank(key, now)) if len(lines) > 1 else lines
        return [next(iter(lines[key])) for key in keys]

    def first(self, fair, now):
        return self.heads(fair, now)[0]


class Pool:
    """A number of places, granted fairly by uid: preprocessing turns, or slots for local compiles.

    Whenever nothing came back for POOL_STALL_S though somebody waits, one more is granted: holders may depend on those
    who wait (a fifo, a nested make), and nothing may wait for ever."""

    def __init__(self):
        self.holders = {}               # token: (uid, since)
        self.waiting, self.fair = FairQueue(), FairShare()          # by uid
        self.extra, self.extra_at = 0, 0.0      # places granted beyond the limit while stalled, and when the last was
        self.moved_at = 0.0             # when a place was last granted or came back, or the first began to wait

    def ask(self, token_, uid, now):
        if not self.waiting.keys:       # only while somebody waits is it a stall
            self.moved_at = now
        self.waiting.add(token_, uid, now)

    def grant(self, limit, now):
        """Tokens that have a place now. `limit` may differ from call to call."""
        granted = []
        if not self.waiting.keys:
            self.extra = 0
            return granted
        if not self.holders:
            self.moved_at = now
        if now - self.moved_at >= POOL_STALL_S:
            self.extra, self.extra_at = self.extra + 1, now
        while self.waiting.keys and len(self.holders) < max(limit, 1) + self.extra:
            chosen = self.waiting.first(self.fair, now)
            uid, _ = self.waiting.remove(chosen)
            self.holders[chosen] = (uid, now)
            self.fair.take(uid)
            self.moved_at = now
            granted.append(chosen)
        return granted

    def drop(self, token_, now):
        """Give back the place, or stop waiting; tokens that do neither are ignored. Returns seconds held, or None."""
        self.waiting.remove(token_)
        if token_ not in self.holders:
            return None
        uid, since = self.holders.pop(token_)
        self.fair.give(uid, now - since, now)
        self.moved_at = now
        if since < self.extra_at:       # one of those that had stalled: a ^Z of their user may last for hours
            self.extra = max(0, self.extra - 1)
        return now - since


# ---- the serving side

def capacity(cores, foreign, by_memory, limit):
    """Slots of a server now; at least 1 (what forbids any job at all is refused by name, not by capacity)."""
    by_cores = math.ceil(SLOTS_PER_CORE * max(cores - foreign, 0.0))
    return max(1, min(by_cores, by_memory, limit))


class Holder:
    """Who has a slot: (address, submitter, uid), since when, and the memory it may come to need."""
    __slots__ = ("key", "since", "memory_mb")

    def __init__(self, key, since, memory_mb):
        self.key, self.since, self.memory_mb = key, since, memory_mb

    def unseen_mb(self, life_s, now):
        """What it has not taken yet of that: a compile grows all its life, which is life_s long, or so."""
        return self.memory_mb * max(0.0, 1 - (now - self.since) / max(life_s, 0.1))


class Admission:
    """The server's slots. A ticket (any object: the connection) holds a slot from admission until its compiler
    ended."""

    def __init__(self, limit, memory):
        self.limit, self.memory = limit, memory                     # --slots; PeakMemory
        self.slots = 1                  # as of the last measure()
        self.local_running = 0          # compiles of this box's own clients: they come off the slots
        self.refusal = None             # name of what forbids new jobs: draining, memory, disk
        self.holders = {}               # ticket: Holder
        self.free_mb = float("inf")     # memory that is free and promised to nobody
        self.parked, self.fair = FairQueue(), FairShare()           # by (address, submitter, uid)
        self.needs = {}                 # parked ticket: memory that it may come to need, in MB
        self.pause_until = 0.0          # no grants before: a user was noticed at the machine
        self.counted = {}               # submitter: highest reservation number given to it, of the recent ones
        self.counted_at = {}            # submitter: when; in the same order, the latest last
        self.last_reservation = 0
        self.job_s = Mean(0.1)          # how long slots are held
        self.foreign = 0.0

    def measure(self, cores, foreign, available_mb, reserve_mb, refusal, now):
        """Take in what the box says of itself; `refusal` None where nothing forbids jobs."""
        life_s = self.life_s(now)
        promised = sum(holder.unseen_mb(life_s, now) for holder in self.holders.values())
        self.free_mb = available_mb - reserve_mb - promised
        more = max(0, int(self.free_mb / self.usual_mb()))
        slots = capacity(cores, foreign, len(self.holders) + more, self.limit)
        if slots < self.slots and foreign > self.foreign + 0.5:
            self.pause_until = now + GRANT_PAUSE_S
        self.slots, self.refusal, self.foreign = slots, refusal, foreign
        self.forget_submitters(now)

    def forget_submitters(self, now):
        """Those that have no job here and got none for a while, or a restarted one would look like two for ever."""
        busy = {holder.key[1] for holder in self.holders.values()}
        for submitter, at in list(self.counted_at.items()):
            if now - at > SUBMITTER_MEMORY_S and submitter not in busy:
                del self.counted[submitter], self.counted_at[submitter]

    def life_s(self, now):
        """How long jobs last; before the first has ended, as long as the oldest does already."""
        if self.job_s.count:
            return self.job_s.value
        oldest = next(iter(self.holders.values()), None)
        return max(JOB_PRIOR_S, now - oldest.since if oldest else 0.0)

    def usual_mb(self):
        """Memory of a job of which nothing is known."""
        return self.memory.need_mb(PeakMemory.SERVED)

    def fits(self, memory_mb):
        """Whether there is memory for one more job; alone it may start in any case."""
        return memory_mb <= self.free_mb or not self.holders

    def free(self, now):
        if self.refusal or now < self.pause_until:
            return 0
        return max(self.slots - self.local_running, 1) - len(self.holders)

    def request(self, key, ticket, memory_mb, now):
        """("granted", reservation), ("parked", position, estimated wait in s) or ("refused", name)."""
        if self.refusal:
            return "refused", self.refusal
        idle_mb = self.free_mb + sum(holder.memory_mb for holder in self.holders.values())
        if memory_mb > max(idle_mb, MEMORY_PER_JOB_MB):     # nobody's end would change that
            return "refused", "memory"
        if self.free(now) > 0 and not self.parked.keys and self.fits(memory_mb):
            return "granted", self.take(key, ticket, memory_mb, now)
        self.parked.add(ticket, key, now)
        self.needs[ticket] = memory_mb
        wait = len(self.parked) / max(self.slots, 1) * (self.job_s.value or 1.0)
        return "parked", len(self.parked), wait

    def take(self, key, ticket, memory_mb, now):
        self.holders[ticket] = Holder(key, now, memory_mb)
        self.free_mb -= memory_mb
        self.fair.take(key)
        self.last_reservation += 1
        for row, value in ((self.counted, self.last_reservation), (self.counted_at, now)):
            row.pop(key[1], None)
            row[key[1]] = value
            if len(row) > 64:
                row.pop(next(iter(row)))
        return self.last_reservation

    def next_granted(self, now):
        """(ticket, reservation, seconds waited) of a parked request that has a slot now, or None.
        Where it needs more memory than is free the others wait with it, or it might wait for ever;
        but what is more than its address's share comes after the others, which do not wait."""
        if not self.parked.keys or self.free(now) <= 0:
            return None
        modest, greedy, within_share = [], [], self.shares()
        for ticket in self.parked.heads(self.fair, now):
            (modest if within_share(ticket) else greedy).append(ticket)
        for ticket in modest[:1] or greedy:
            if self.fits(self.needs[ticket]):
                key, since = self.parked.remove(ticket)
                return ticket, self.take(key, ticket, self.needs.pop(ticket), now), now - since
        return None

    def shares(self):
        """A function: whether a parked request leaves its address with no more memory than its part
        would be if all addresses that have or want a slot had equal ones."""
        held = dict.fromkeys((key[0] for key in self.parked.lines), 0)
        for holder in self.holders.values():
            held[holder.key[0]] = held.get(holder.key[0], 0) + holder.memory_mb
        whole = self.free_mb + sum(held.values())

        def within_share(ticket):
            mine = self.needs[ticket] + held[self.parked.keys[ticket][0]]
            return len(held) == 1 or mine * len(held) <= whole
        return within_share

    def release(self, ticket, cpu_s, now):
        """The slot is free, or the parked request withdrawn; a ticket that has neither is ignored."""
        if self.parked.remove(ticket):
            del self.needs[ticket]
        life_s, holder = self.life_s(now), self.holders.pop(ticket, None)
        if holder:
            self.free_mb += holder.unseen_mb(life_s, now)
            self.fair.give(holder.key, now - holder.since, now)     # though its reservation lapsed
            if cpu_s:
                self.job_s.add(now - holder.since)


# ---- the submitting side

class Host:
    """One place to run jobs. What it reports, what was sent there, and how that went."""
    __slots__ = (
        "key",              # str(endpoint), or "local"
        "name", "kind", "endpoint",
        "address",          # resolved address, "" until then: of several the one that answers
        "addresses",        # all that its name has: reports go to each until one answers, connects try the next
        "zone",             # number of the interface that a link-local address is of, else 0
        "version",          # major version of its reports where that is not ours, else None
        "listed_slots",     # of a plain distccd; jobs at once
        "lzo",              # it is listed with ,lzo
        "load",             # last Load, None before the first and for distccd
        "report_at", "patience_s",      # of that report; how long after it the host counts as silent
        "leases",           # set of Lease: mine, granted and not yet ended
        "asking",           # requests without an answer yet
        "uncounted",        # my leases that the last report does not count yet
        "ended",            # my leases that it counts but that have ended since
        "full",             # answered "parked" after the last report
        "failures",         # in a row; 0: fine
        "failure",          # (reason name, text) of the last
        "retry_at",         # end of the back-off
        "bad_files",        # sources that failed there and nowhere else
        "counters",         # {ok, failed, refused, cancelled}
        "used_at",          # when it last got a job of ours
        "retired",          # listed no longer: no new jobs
        "shared",           # its last report counts jobs of other submitters
        "misfits",          # {compiler identity: until when none is asked for, since it was refused}
        "short_at",         # since when it reports fewer jobs than it took of mine; None: it does not
        "distrusted",       # when a report of it had no right MAC, None since one had
    )

    def __init__(self, key, name, kind, endpoint=None, listed_slots=0, lzo=False):
        self.key, self.name, self.kind, self.endpoint = key, name, kind, endpoint
        self.listed_slots, self.lzo = listed_slots, lzo
        self.address, self.zone, self.version = endpoint[0] if endpoint else "", 0, None
        self.addresses = [self.address]
        self.load, self.report_at, self.patience_s = None, None, PEER_TIMEOUT_S
        self.leases, self.asking, self.uncounted, self.ended, self.full = set(), 0, 0, 0, False
        self.failures, self.failure, self.retry_at, self.bad_files = 0, None, 0.0, set()
        self.counters = dict.fromkeys(("ok", "failed", "refused", "cancelled"), 0)
        self.shared, self.retired, self.used_at, self.misfits, self.distrusted = False, False, 0.0, {}, None
        self.short_at = None

    def place(self):
        """What sockets call its address."""
        return (self.address, self.endpoint[1], 0, self.zone) if self.zone else (self.address, self.endpoint[1])

    def slots(self):
        return self.load.slots if self.load else self.listed_slots

    def cores(self):
        return self.load.cores if self.load else self.listed_slots

    def occupied(self):
        """Jobs there as far as can be known: reported, corrected by what the report cannot count yet, or asked for."""
        reported = self.load.running + self.uncounted - self.ended if self.load else 0
        return max(reported, len(self.leases)) + self.asking

    def has_memory(self, mb):
        """As far as can be known: of a plain distccd nothing is, and all are taken to have what most jobs need."""
        return mb <= MEMORY_PER_JOB_MB or not self.load or self.load.memory_mb >= mb

    def silent(self, now):
        if self.kind != "peer":
            return False
        return self.report_at is None or now - self.report_at > self.patience_s

    def state(self, now):
        """(state, reason) as in `status`: up, busy, draining, suspect or down."""
        if self.kind == "peer":
            if self.distrusted is not None and self.silent(now):
                return "down", REASONS["bad-mac"]
            if self.version is not None and (self.report_at is None or self.silent(now)):
                return "down", "speaks version %d of our protocol, this daemon %d" % (self.version, PROTOCOL_MAJOR)
            if self.report_at is None:
                return "down", "no load report yet: is its daemon up, and does its --allow name this box?"
            if self.silent(now):
                return "down", "no load report for %d s" % (now - self.report_at)
            if self.load.state == STATE_DRAINING:
                return "draining", REASONS["draining"]
            if self.load.state == STATE_SHORT:
                return "busy", "short of memory or disk"
        if self.retired:
            return "draining", "no longer listed"
        if self.failures:
            name, text = self.failure
            wait = max(0, self.retry_at - now)
            return "suspect", "%s; tried again %s" % (text or reason_text(name), "in %d s" % wait if wait else "now")
        return ("busy", "all slots taken") if self.occupied() >= self.slots() else ("up", "")

    def fails(self, name, text, now):
        """A mishap that is the host's fault: 2, 4, 8 .. 60 s without jobs, then one job as a probe."""
        if self.failures and now < self.retry_at:           # jobs under way fail with it: one mishap, not many
            return
        self.failures += 1
        self.failure = (name, text)
        self.retry_at = now + min(BACKOFF_FIRST_S * 2 ** min(self.failures - 1, 20), BACKOFF_MAX_S)

    def recovers(self):
        self.failures, self.failure, self.retry_at = 0, None, 0.0

    def usable(self, now):
        """May get jobs now, room apart; after a back-off just one, as a probe (Placement.has_room)."""
        if self.kind == "peer" and (self.silent(now) or self.load.state in (STATE_DRAINING, STATE_SHORT)):
            return False
        return not self.retired and (not self.failures or now >= self.retry_at)

    def offers(self, identity, mode, now):
        """Whether it has this compiler; a plain distccd is taken at its word, for plain -E."""
        if now < self.misfits.get(identity, now):
            return False
        if self.kind == "distccd":
            return mode == MODE_PLAIN
        return bool(self.load) and identity in self.load.identities and (
            mode == MODE_PLAIN or bool(self.load.capabilities & CAN_DIRECTIVES))

    def misfit(self, identity, now):
        """It has refused this compiler, whatever it reports."""
        self.misfits = {key: until for key, until in self.misfits.items() if now < until}
        if len(self.misfits) < MISFITS_KEPT:
            self.misfits[identity] = now + MISFIT_S


class Audience:
    """Who gets this daemon's reports, and how often: all each second, but in a large farm only those that have
    submitted within the last minute; the rest every ten seconds, or 1,000 hosts would send a million packets a second.
    Targets are (address, port)."""

    def __init__(self, hosts):
        self.hosts = hosts                          # {key: Host}: jobs are sent to them
        self.submitters = {}                        # target: heard at; it may send jobs here
        self.active = {}                            # address: when it last asked for a slot, or for reports
        self.fast = set()                           # targets that were told of another report within a second
        self.slow_at = 0.0                          # when the rest is due

    def hear(self, target, now):
        """It reports, and may send jobs here. Whether it is new."""
        new = target not in self.submitters
        if not new or len(self.submitters) < REPORTERS_MOST:
            self.submitters[target] = now
        return new and target in self.submitters

    def asked(self, address, now):
        if address in self.active or len(self.active) < REPORTERS_MOST:
            self.active[address] = now

    def everybody(self, now):
        self.submitters = {who: at for who, at in self.submitters.items() if now - at < SUBMITTER_MEMORY_S}
        self.active = {who: at for who, at in self.active.items() if now - at < SUBMITTER_MEMORY_S}
        targets = set(self.submitters)
        for host in self.hosts.values():
            unheard = host.load is None or host.silent(now)
            targets.update((address, host.endpoint[1]) for address in (
                {host.address, *host.addresses} if unheard else (host.address,)) if address)
        return targets

    def due(self, now, all_of_them=False):
        """[(targets, whether to broadcast as well, seconds until their next report)]. Who was fast and is so no more is
        told at once, or would take the long silence for a failure."""
        everybody, before = self.everybody(now), self.fast
        if len(everybody) <= LARGE_FARM_HOSTS:
            self.fast = everybody
            return [(everybody, True, REPORT_INTERVAL_S)]
        self.fast = {target for target in everybody if target[0] in self.active}
        slow, rows = everybody - self.fast, [(self.fast, False, REPORT_INTERVAL_S)]
        if now >= self.slow_at or all_of_them:
            self.slow_at = now + SLOW_REPORT_INTERVAL_S
            rows.append((slow, True, SLOW_REPORT_INTERVAL_S))
        elif before & slow:
            rows.append((before & slow, False, SLOW_REPORT_INTERVAL_S))
        return rows


class Lease:
    """A slot on a host for one job."""
    __slots__ = ("host", "job", "reservation", "counted", "since")

    def __init__(self, host, job, reservation, since):
        self.host, self.job, self.reservation, self.since = host, job, reservation, since
        self.counted = False                # whether the last report of the host includes it


MODE_MARKS = {MODE_PLAIN: "", MODE_DIRECTIVES: " directives"}       # behind a job class, for the statistics


class Job:
    """One compile of a client on this box, from its hello to its end."""
    __slots__ = (
        "uid", "source", "output", "job_class", "remember_key",
        "identity",         # of its compiler; None until known
        "mode", "size_kb", "preprocess_s",
        "memory_mb",        # that its compiler may need
        "weight",           # as of Statistics.weight(), from when its size is known
        "state",            # queued, preprocess, wait, remote, home (wants a local slot), local, ended
        "since",            # of the state
        "arrived", "lease", "excluded", "tries", "lapses", "predicted_s", "decision", "session", "reason",
        "text",             # digest of its preprocessed text, where the client said it; else ""
        "source_key",       # path and flags, hashed: what statistics remember it by
        "compiler_key",     # path and stamp of its compiler, as the client says
        "may_directives",   # its flags allow -fdirectives-only
        "own_only",         # no plain distccd can take it
        "stays",            # it may not run here (DISTCC_LM_FALLBACK=0)
        "slept",            # this box stood still meanwhile: its times say nothing
        "left",             # (host, counter that was raised): where it ran before, and may have been done after all
        "suspect_host",     # where a compile failed that is now done again locally
    )

    def __init__(self, uid, source, output, job_class, remember_key, session, now):
        self.uid, self.source, self.output = uid, source, output
        self.job_class, self.remember_key = job_class, remember_key
        self.identity, self.mode, self.size_kb, self.preprocess_s = None, MODE_PLAIN, 0, 0.0
        self.weight, self.memory_mb = 0.0, MEMORY_PER_JOB_MB
        self.state, self.since, self.arrived = "queued", now, now
        self.lease, self.excluded, self.tries, self.lapses, self.predicted_s = None, set(), 0, 0, None
        self.decision, self.session, self.reason, self.suspect_host, self.compiler_key = None, session, None, None, ""
        self.own_only, self.may_directives, self.slept, self.left, self.stays = False, False, False, None, False
        self.text = self.source_key = ""

    def enter(self, state, now):
        self.state, self.since = state, now
        if self.decision:
            self.decision.phases.append((state, now, self.lease.host.name if self.lease else ""))

    def keys(self):
        """(class, source) for the statistics: the text of each mode has a time per KB of its own."""
        mark = MODE_MARKS[self.mode]
        return self.job_class + mark, self.source_key + mark

    def group(self):
        """Jobs with the same may take each other's slots."""
        return self.uid, self.identity, self.mode, self.own_only

    def kind(self):
        """What a host must offer."""
        return self.identity, self.mode, self.own_only


class Request:
    """One question to a host for a slot, on behalf of a group (Job.group()); late binding: the job is chosen when
    the answer is yes."""
    __slots__ = ("host", "group", "state", "since", "size_kb", "memory_mb", "job_class", "connection")

    def __init__(self, host, job, now):
        self.host, self.group, self.size_kb, self.job_class = host, job.group(), job.size_kb, job.job_class
        self.memory_mb = job.memory_mb              # and no job that may need more takes the slot
        self.state, self.since, self.connection = "asking", now, None       # asking, parked, ended


class Decision:
    """Why a job went where it went, for `why`: candidates as (host, predicted seconds or None, remark)."""
    __slots__ = ("at", "uid", "source", "size_kb", "candidates", "choice", "reason", "predicted_s", "actual_s",
                 "server_s", "outcome", "events", "phases")

    def __init__(self, job, at):
        self.at, self.uid, self.source, self.size_kb = at, job.uid, job.source, job.size_kb
        self.candidates, self.choice, self.reason = [], None, None
        self.predicted_s = self.actual_s = self.outcome = None
        self.server_s = None                # (queued, compiling) as the server measured it; None of a plain distccd
        self.events = []                    # (seconds after `at`, sentence)
        self.phases = [(job.state, at, "")]     # (state entered, when, host of a remote one)

    def spans(self, now):
        """What the job did when: [(what, host, seconds after `at`, seconds)]. what: turn and wait (for a host or a
        slot here), preprocess, local, and of a remote one transfer (both ways, drawn before) and compile, or remote
        where the server does not say which was which."""
        rows, ends = [], [at for _, at, _ in self.phases[1:]] + [now]
        for (state, since, host), until in zip(self.phases, ends):
            begin, length = since - self.at, until - since
            if state == "remote" and self.server_s and self.outcome == "ok" and until == self.phases[-1][1]:
                waited, compiling = self.server_s
                transfer = max(length - waited - compiling, 0.0)
                rows += [("transfer", host, begin, transfer), ("wait", host, begin + transfer, waited),
                         ("compile", host, begin + transfer + waited, compiling)]
            elif state != "ended" and length > 0:
                rows.append(({"queued": "turn", "home": "wait"}.get(state, state), host, begin, length))
        return rows


class Group:
    """Jobs that wait for the same kind of slot, and the requests that stand for them."""
    __slots__ = ("key", "queue", "kb", "requests", "asking", "light", "settled")

    def __init__(self, key):
        self.key = key                      # Job.group()
        self.queue, self.kb = [], 0         # Jobs in the order of coming, and the sum of their sizes
        self.requests = []                  # Requests asking or parked
        self.asking = 0                     # how many of them are asking
        self.light = None                   # the job that weighs least, where that is known
        self.settled = None                 # Roster.changes as of when nothing was left to ask

    def kind(self):
        return self.key[1:]

    def lightest(self):
        if self.light is None:
            self.light = min(self.queue, key=lambda job: job.weight)
        return self.light

    def add(self, job, first):
        self.queue.insert(0 if first else len(self.queue), job)
        self.kb += job.size_kb
        lighter = self.light is None or job.weight < self.light.weight
        if first or lighter or len(self.queue) * PARKED_PER_JOB <= PARKED_MAX:
            self.settled = None             # else one more of these finds no place either
        if self.light and lighter:
            self.light = job

    def remove(self, job):
        self.queue.remove(job)
        self.kb -= job.size_kb
        if job is self.light:
            self.light = None

    def heads(self):
        """The first job for which nobody is asked yet; where some hosts are closed to it, behind it one for each other
        set of closed hosts, to the first that has none: it must not hold up those."""
        first = self.queue[min(self.asking, len(self.queue) - 1)]
        yield first
        seen = [first.excluded]
        for job in self.queue:
            if not seen[-1]:
                return
            if job.excluded not in seen:
                seen.append(job.excluded)
                yield job

    def at(self, host):
        return [request for request in self.requests if request.host is host]


class Placement:
    """The arithmetic of a choice: what a host would cost a job, and whether it has room."""

    def __init__(self, statistics, rng):
        self.statistics, self.rng = statistics, rng
        self.terms = {}                     # {host: work_out()}, as long as nothing changes there

    def cost(self, host, job, granted=False):
        """Predicted seconds until the job's object is here, plus the slowdown that it causes others
        there. `granted`: it has a slot already, whatever the last report says."""
        occupied, row = host.occupied(), self.terms.get(host)
        if row is None or row[0] != occupied:
            row = self.terms[host] = self.work_out(host, occupied, False)
        if granted and row[4]:
            row = self.work_out(host, occupied, True)
        return row[1] + job.size_kb * row[2] + job.weight * row[3]

    def work_out(self, host, occupied, granted):
        """(occupied; what a job costs: seconds, seconds for each KB, for each unit of weight; the wait
        for a slot in it, in lives of a job)"""
        figures, load, slots = self.statistics.host(host.key), host.load, host.slots() or 1
        pace, fixed, times = figures.pace.value or 1.0, figures.rtt.value, 1.0
        waits = 0.0 if granted else max(0, occupied - slots + 1) / slots
        occupied, before = min(occupied, slots - 1), occupied
        if host.kind != "distccd":              # which reports neither load nor times
            stretch = self.statistics.contention.stretch
            times = alone = stretch(occupied + load.foreign + 1, load.cores)
            if occupied:
                times += occupied * max(alone - stretch(occupied + load.foreign, load.cores), 0.0)
        if figures.job_s.value:
            fixed += waits * figures.job_s.value
        else:
            times += waits
        per_kb = figures.transfer_s(1.0) if host.kind != "distccd" else 0.0
        return before, fixed + JOB_FIXED_S * pace * times, per_kb, figures.k() * pace * times, waits

    def need_mb(self, job, hosts):
        """Memory to ask for: as its like needed, but no more than some host has to spare, or none would ever be sent
        again to show that it needs less."""
        need = self.statistics.memory.need_mb(job.keys()[0])
        if need > MEMORY_PER_JOB_MB:
            most = max((host.load.memory_mb for host in hosts.values() if host.load), default=0)
            need = max(MEMORY_PER_JOB_MB, min(need, most * 3 // 4))
        return need

    def predicted(self, host, job):
        """Seconds from sending to receiving, for one more job alone: what the outcome is compared with."""
        figures = self.statistics.host(host.key)
        work = self.statistics.work(host.key, job.weight) * (figures.pace.value or 1.0)
        if host.kind == "distccd":
            return figures.rtt.value + work
        jobs = min(host.occupied() + 1, max(host.slots(), 1)) + (host.load.foreign if host.load else 0.0)
        slowdown = self.statistics.contention.stretch(jobs, max(host.cores(), 1))
        return figures.rtt.value + figures.transfer_s(job.size_kb) + work * slowdown

    def rest(self, job, spent):
        """(seconds that a job has yet to run on its host, by what is known of that by now; how many times longer it
        takes than predicted, as far as that is no fault of the host). One that is overdue takes as long again, for all
        we know. Other users of the host are left out: they come and go. A plain distccd does not say enough: (0, 1)."""
        host = job.lease.host
        figures = self.statistics.host(host.key)
        if host.kind != "peer":
            return 0.0, 1.0
        stretch = self.statistics.contention.stretch(host.occupied(), max(host.cores(), 1))
        whole = self.statistics.work(host.key, job.weight) * (figures.pace.value or 1.0) * stretch
        whole += figures.transfer_s(job.size_kb)
        if spent <= UNDERRATED_RATIO * whole:
            return whole - spent, 1.0
        return spent, 2 * spent / whole if figures.measured() else 1.0

    def least(self, hosts, job):
        """The least cost among these, the wait for a slot included."""
        return min((self.cost(host, job) for host in hosts), default=float("inf"))

    def weigh(self, hosts, job, now):
        """[(cost, host)], best first."""
        low, high = 1 - COST_JITTER, 1 + COST_JITTER
        rows = [(self.cost(host, job) * self.rng.uniform(low, high), host) for host in hosts]
        rows.sort(key=lambda row: row[0])
        return rows

    def worth_trying(self, hosts, job, now):
        """What is known of a host grows old: now and then one that got nothing for long, as long as
        the job takes no longer there than jobs do; mostly []."""
        if self.rng.random() >= IDLE_HOST_SHARE:
            return []
        most = CANDIDATE_COST_RATIO * self.statistics.remote.value
        return [host for host in hosts
                if now - host.used_at >= IDLE_HOST_S and self.cost(host, job) <= most][:1]

    def has_room(self, host):
        """Whether a request is likely to be granted at once."""
        if host.full:
            return False
        if host.failures:
            return not self.on_trial(host)
        return host.occupied() < host.slots() and not self.on_trial(host)

    def may_park(self, host, frame):
        """Whether a request may wait there: it is full, and not on trial. Where most are unknown, as when a farm is
        new, slots must not stay empty for that."""
        if host.kind != "peer":
            return False
        if self.on_trial(host):
            return 2 * frame.tried <= len(frame.hosts) and not host.failures
        return host.full or host.occupied() >= host.slots()

    def on_trial(self, host):
        """Whether it has as many jobs as a host gets that must show first how it does: a quarter of its cores, or one
        after a mishap."""
        if host.failures:
            return bool(host.leases or host.asking)
        return self.unknown(host) and len(host.leases) + host.asking >= max(1, host.cores() // 4)

    def unknown(self, host):
        """Whether it must show first how fast it is: few jobs then, and small ones."""
        return host.kind == "peer" and not self.statistics.host(host.key).known()

    def speed(self, host):
        """KB per second of all its slots: the weight by which hosts are drawn."""
        figures, slots, stretch = self.statistics.host(host.key), max(host.slots(), 1), 1.0
        if host.load:
            stretch = self.statistics.contention.stretch(slots + host.load.foreign, max(host.load.cores, 1))
        return slots / (figures.k() * (figures.pace.value or 1.0) * stretch)



class Frame:
    """The hosts that offer one kind of slot, as far as was known at `at`: what choices draw from. It may hold some that
    no longer offer it, so that whoever is drawn is looked at again."""
    __slots__ = ("kind", "at", "hosts", "totals", "slots", "speeds", "roomy", "shared", "tried",
                 "directives")

    def __init__(self, kind, at):
        self.kind, self.at = kind, at
        self.hosts, self.totals = [], []    # in no order; running sums of Placement.speed()
        self.slots = 0                      # of all of them
        self.speeds = {}                    # the same hosts: Placement.speed() of each
        self.roomy = {}                     # {host: None}: all that have room, and some that have not
        self.shared = False                 # others submit to some of them
        self.tried = 0                      # how many have shown how fast they are
        self.directives = None              # whether most can take -fdirectives-only; None: not worked out yet

    def add(self, host, speed, unknown):
        self.hosts.append(host)
        self.totals.append(speed + (self.totals[-1] if self.totals else 0.0))
        self.slots += max(host.slots(), 1)
        self.speeds[host] = speed
        self.roomy[host] = None
        self.shared, self.tried = self.shared or host.shared, self.tried + (not unknown)

    def rank(self, host):
        """1 where a slot of this host is clearly faster than the mean slot, -1 where slower, else 0."""
        if host not in self.speeds:
            return 0
        ratio = self.speeds[host] / max(host.slots(), 1) * self.slots / self.totals[-1]
        return (ratio > SPEED_TIE) - (ratio * SPEED_TIE < 1)

    def few(self):
        """Whether all of them can be weighed."""
        return len(self.hosts) <= (CANDIDATES_ALL_MAX if self.shared else CANDIDATES_ALONE_MAX)


class Roster(dict):
    """{key: Host}, without this box; and a Frame for each kind of slot, so that no event has to look at all hosts."""

    def __init__(self, placement, rng):
        super().__init__()
        self.placement, self.rng, self.frames = placement, rng, {}
        self.changes = 0                    # counts up with whatever may let a job go somewhere

    def __setitem__(self, key, host):
        super().__setitem__(key, host)
        self.welcome(host, host.report_at or 0.0)

    def serves(self, host, kind, now):
        """Whether this host may get jobs of this kind now, room apart."""
        identity, mode, own_only = kind
        return (self.get(host.key) is host and host.usable(now) and not (own_only and host.kind == "distccd")
                and (identity is None or host.offers(identity, mode, now)))

    def room_again(self, host):
        """Whatever lowers Host.occupied() calls this."""
        self.changes += 1
        for frame in self.frames.values():
            if host in frame.speeds:
                frame.roomy[host] = None

    def welcome(self, host, now, had_room=False):
        """It is new, or it reports and may offer more than before."""
        self.placement.terms.pop(host, None)
        for frame in self.frames.values():
            if host not in frame.speeds and self.serves(host, frame.kind, now):
                frame.add(host, self.placement.speed(host), self.placement.unknown(host))
                had_room = False
        if not had_room and self.placement.has_room(host):
            self.room_again(host)

    def frame(self, kind, now):
        frame = self.frames.get(kind)
        if frame is None or now - frame.at > ROSTER_INTERVAL_S:
            self.frames.pop(kind, None)
            if len(self.frames) >= FRAMES_KEPT:
                del self.frames[next(iter(self.frames))]
            frame = self.frames[kind] = Frame(kind, now)
            self.placement.terms.clear()
            self.changes += 1
            for host in self.values():
                if self.serves(host, kind, now):
                    frame.add(host, self.placement.speed(host), self.placement.unknown(host))
        return frame

    def any(self, kind, now, excluded=()):
        """Whether some host serves this kind, full or not."""
        frame = self.frame(kind, now)
        if any(host.key not in excluded and self.serves(host, kind, now) for host in frame.hosts):
            return True
        if frame.at == now:
            return False
        del self.frames[kind]               # it may be out of date
        return self.any(kind, now, excluded)

    def hopeless(self, job, now, excluded=()):
        """Whether no host can be had for it. Where it may not run here it waits for those that back off, and for those
        that may not have been heard yet."""
        identity, mode, own_only = job.kind()
        if self.any(job.kind(), now, excluded):
            return False
        if not job.stays or mode != MODE_PLAIN:
            return True
        return now - job.arrived > PEER_TIMEOUT_S and not any(
            host.failures and host.key not in excluded and not host.retired and not host.silent(now)
            and not (own_only and host.kind == "distccd") and (identity is None or host.offers(identity, mode, now))
            for host in self.values())

    def free(self, frame, host, now):
        """Whether a host of the frame has room and serves; one that is full leaves the frame's roomy ones."""
        if not self.placement.has_room(host):
            frame.roomy.pop(host, None)
            return False
        return self.serves(host, frame.kind, now)

    def any_free(self, kind, now, excluded=()):
        frame = self.frame(kind, now)
        return any(self.free(frame, host, now) and host.key not in excluded for host in list(frame.roomy))

    def sample(self, frame, now, excluded=()):
        """Hosts of the frame, full or not: all where they are few, else some drawn by speed."""
        if frame.few():                     # what they offer was seen when the frame was made
            return [host for host in frame.hosts if host.usable(now)
                    and self.get(host.key) is host and host.key not in excluded]
        drawn = dict.fromkeys(self.rng.choices(
            frame.hosts, cum_weights=frame.totals, k=CANDIDATES_DRAWN))
        return [host for host in drawn
                if host.key not in excluded and self.serves(host, frame.kind, now)]

    def candidates(self, frame, now, excluded=()):
        """Hosts with room: all where they are few, else up to CANDIDATES_DRAWN drawn by speed."""
        most = len(frame.hosts) if frame.few() else CANDIDATES_DRAWN
        found, drawn = [], () if frame.few() else dict.fromkeys(self.rng.choices(
            frame.hosts, cum_weights=frame.totals, k=4 * CANDIDATES_DRAWN))
        for hosts in drawn, list(frame.roomy):
            if found:
                break
            for host in hosts:              # few, or most of them full: all that have room
                if len(found) < most and host in frame.roomy and host.key not in excluded and (
                        self.free(frame, host, now)):
                    found.append(host)
        return found

    def directives(self, identity, now):
        """Whether enough of the hosts with this compiler take -fdirectives-only over a link that carries it."""
        frame = self.frame((identity, MODE_PLAIN, False), now)
        if frame.directives is None:
            able = [host for host in frame.hosts if host.load and host.load.capabilities & CAN_DIRECTIVES
                    and self.placement.statistics.host(host.key).bandwidth() >= DIRECTIVES_BANDWIDTH_KB_S]
            enough = DIRECTIVES_SHARE * sum(host.slots() for host in frame.hosts)
            frame.directives = bool(able) and sum(host.slots() for host in able) >= enough
        return frame.directives


class PerUser:
    """Rows {key: value} of each user, at most `most` of one: no user's push out another's. They are the word of that
    user's own clients, too."""

    def __init__(self, most):
        self.most, self.users = most, {}    # {uid: rows}, who came last at the end

    def rows(self, uid):
        self.users[uid] = rows = self.users.pop(uid, {})
        if len(self.users) > USERS_REMEMBERED:
            self.users.pop(next(iter(self.users)))
        return rows

    def put(self, uid, key, value):
        rows = self.rows(uid)
        if key not in rows and len(rows) >= self.most:
            rows.pop(next(iter(rows)))
        rows[key] = value


class Memory:
    """What is remembered of a user's (file and flags): the reason why it goes local, and the digest of the preprocessed
    text that this is about, since headers change; "": of any. A day, or until file or flags change (the key contains
    the file's inode, size and ctime)."""

    def __init__(self):
        self.users = PerUser(REFUSALS_REMEMBERED)       # {key: (reason name, text, until)}

    def recall(self, uid, key, now):
        """(reason name, text) or None."""
        row = self.users.rows(uid).get(key)
        return row[:2] if row and now < row[2] else None

    def remember(self, uid, key, name, text, now):
        rows = self.users.rows(uid)
        rows.pop(key, None)
        oldest = next(iter(rows.values()), None)
        if len(rows) >= REFUSALS_REMEMBERED and now < oldest[2]:
            rows.popitem()                  # the latest: a build of more files than these finds the others again
        self.users.put(uid, key, (name, text, now + REFUSAL_MEMORY_S))


class History:
    """The last quarter of an hour, for the page: [(at, waiting, preprocessing, remote, local, slots of the farm)],
    the numbers of jobs as the mean since the row before."""

    def __init__(self):
        self.rows, self.next_at = collections.deque(maxlen=HISTORY_KEPT), 0.0
        self.sums, self.count = [0] * 4, 0

    def sample(self, ledger, now):
        """Called some times a second."""
        states = collections.Counter(job.state for job in ledger.jobs)
        found = (states["queued"] + states["wait"] + states["home"], states["preprocess"], states["remote"],
                 states["local"])
        self.sums, self.count = [old + new for old, new in zip(self.sums, found)], self.count + 1
        if now >= self.next_at:
            slots = sum(host.slots() for host in ledger.hosts.values() if host.usable(now))
            self.rows.append((now, *(round(total / self.count, 2) for total in self.sums), slots))
            self.next_at, self.sums, self.count = now + HISTORY_INTERVAL_S, [0] * 4, 0


class Faults:
    """What is held against hosts, files and modes where a job went wrong."""

    def __init__(self, statistics):
        self.statistics = statistics
        self.memory, self.plain_only = Memory(), Memory()       # what goes local; what does not bear -fdirectives-only

    def blame(self, host, job, name, text, now):
        if name in BLAMELESS:
            host.counters["refused"] += 1
            if name == "compiler-unknown":
                host.misfit(job.identity, now)
            else:
                self.memory.remember(job.uid, job.remember_key, name, "", now)
        elif name == "out-of-memory":               # a host with more, please
            host.counters["failed"] += 1
            job.memory_mb = memory_step(job.memory_mb + 1)
            self.memory.remember(job.uid, job.remember_key, name, "", now)
        elif name == "killed" or name == "closed" and host.kind == "distccd":       # its way of refusing a job
            self.bad_file(host, job, name, text, now)
        else:
            host.counters["failed"] += 1
            host.fails(name, text, now)

    def bad_file(self, host, job, name, text, now):
        """A job failed there and went well here. The file is to blame first, or the mode; the host after two files of
        which its compiler had nothing to say (plain -E changes what -Werror makes of some sources)."""
        host.counters["failed"] += 1
        if job.mode == MODE_DIRECTIVES:
            self.plain_only.remember(job.uid, job.remember_key, name, "", now)
            return
        self.memory.remember(job.uid, job.remember_key, name, job.text, now)
        if name == "compile-error":
            return
        host.bad_files.add((job.uid, job.source))
        if len(host.bad_files) >= BAD_FILES_BEFORE_SUSPECT:
            host.fails(name, text or "%d files failed there and compiled here" % len(host.bad_files), now)
            host.bad_files.clear()


def leased(job, place):
    """The host of the job's lease, None where what its client says of `place` is of another: a host's name, None where
    it does not say. Its word may cross ours of a second place."""
    host = job.lease.host if job.lease else None
    return host if host and place in (None, host.name) else None


class Ledger:
    """The submitting side's books: hosts, jobs from hello to end, leases, and what each event means for them. What
    is to be done is appended to `actions`:

        ("turn", job)             may preprocess
        ("ask", request)          connect to request.host and ask for a slot
        ("withdraw", request)     close that connection
        ("socket", job, request)  hand that connection to the job's client
        ("local", job)            may run here; it holds a local slot
    """

    def __init__(self, statistics, slots, cores, rng):
        self.statistics, self.placement = statistics, Placement(statistics, rng)
        self.slots, self.cores = slots, cores
        self.job_timeout_s = math.inf       # of hosts, as far as can be known: like ours
        self.turn_limit, self.home_limit = cores, math.inf      # preprocessors; distributable jobs here by choice
        self.hosts = Roster(self.placement, rng)
        self.jobs = set()                   # from hello to end
        self.groups = {}                    # Job.group(): Group
        self.turns, self.locals, self.fair = Pool(), Pool(), FairShare()
        self.faults = Faults(statistics)
        self.memory, self.plain_only = self.faults.memory, self.faults.plain_only
        self.decisions, self.history = collections.deque(maxlen=DECISIONS_KEPT), History()
        self.actions = []
        self.dispatched = 0                 # jobs sent to hosts so far
        self.second_places = 0              # stragglers among them that were sent once more, or done here
        self.on_close = lambda job: None    # told of each job that ended
        self.kin_running = 0                # jobs that daemons under this kernel run
        self.foreign = 0.0                  # runnable tasks on this box that are nobody's jobs
        self.totals = dict.fromkeys(("remote", "local", "fallback", "served", "refused", "hedged", "compile_errors",
                                     "cancelled"), 0)
        self.local_reasons = collections.Counter()
        self.last_hello, self.wants_reports = -math.inf, False      # the latter: all hosts are to be asked for theirs

    # -- a job's life

    def hello(self, job, now):
        """A client has come with a compile that may be distributed."""
        self.open_job(job, now)
        if now - self.last_hello > SUBMITTER_MEMORY_S:      # hosts may report rarely: by when it is preprocessed,
            self.wants_reports = True                       # their answers are here
        self.last_hello = now
        if self.went_wrong(job, now):
            return
        if self.hosts.hopeless(job, now):
            self.go_home(job, "no-host", now)
        else:
            self.turns.ask(job, job.uid, now)

    def went_wrong(self, job, now):
        """Whether the same has gone wrong before, and goes home at once."""
        name, text = self.memory.recall(job.uid, job.remember_key, now) or ("", None)
        if text != job.text:
            return False
        self.note(job, now, "went local before: " + reason_text(name))
        self.go_home(job, "remembered", now)
        return True

    def hello_local(self, job, reason, now):
        """A client has come with a command that is not distributed and wants a local slot."""
        self.open_job(job, now)
        self.go_home(job, reason, now)

    def open_job(self, job, now):
        self.jobs.add(job)
        job.decision = Decision(job, now)
        self.decisions.append(job.decision)

    def sized(self, job, size_kb, preprocess_s, mode, now):
        """The client has preprocessed; its turn ends and it waits for a host. `mode` is plain where it found that
        -fdirectives-only does not carry this source."""
        self.turns.drop(job, now)
        if mode != job.mode:
            self.plain_only.remember(job.uid, job.remember_key, "directives-only", "", now)
            job.mode = mode
        job.size_kb = job.decision.size_kb = size_kb
        job.weight = self.statistics.weight(size_kb, *job.keys())
        job.memory_mb = max(job.memory_mb if job.tries else 0, self.placement.need_mb(job, self.hosts))
        job.preprocess_s = preprocess_s
        self.statistics.preprocess.add(preprocess_s)
        if not (job.text and self.went_wrong(job, now)):
            self.queue(job, now)

    def queue(self, job, now, first=False):
        if self.hosts.hopeless(job, now):
            self.no_host_left(job, now)
            return
        job.enter("wait", now)
        group = self.groups.get(job.group())
        if group is None:
            group = self.groups[job.group()] = Group(job.group())
        group.add(job, first)

    def no_host_left(self, job, now):
        """Preprocess again in plain -E where that opens hosts to it, else run here."""
        self.leave(job, now)                # while job.group() still names the queue that it is in
        if job.mode == MODE_DIRECTIVES:
            job.mode, job.may_directives = MODE_PLAIN, False
            if not self.hosts.hopeless(job, now):
                job.enter("queued", now)
                self.turns.ask(job, job.uid, now)
                return
        self.go_home(job, "hosts-failed" if job.tries else "no-host", now)

    def go_home(self, job, reason, now):
        """The job is to run on this box, as soon as a local slot is free."""
        self.leave(job, now)
        job.reason = job.decision.reason = reason
        job.decision.choice = "local"
        self.totals["fallback" if job.tries else "local"] += 1
        self.local_reasons[reason] += 1
        job.enter("home", now)
        self.locals.ask(job, job.uid, now)

    def turned_away(self, reason):
        """A compile that never became a job."""
        self.totals["local"] += 1
        self.local_reasons[reason] += 1

    def leave(self, job, now):
        """Take the job out of whatever holds or queues it; its lease ends."""
        self.turns.drop(job, now)
        if self.locals.drop(job, now) is not None:
            self.hosts.changes += 1             # there may be room here
        group = self.groups.get(job.group())
        if group and job in group.queue:
            group.remove(job)
        if job.lease:
            self.end_lease(job, now)

    def end_lease(self, job, now):
        lease, job.lease = job.lease, None
        host = lease.host
        host.leases.remove(lease)
        if lease.counted:
            host.ended += 1
        else:
            host.uncounted -= 1
        host.full = False
        self.hosts.room_again(host)
        self.fair.give(job.uid, now - lease.since, now)
        return lease

    def done_by(self, job, place):
        """The host that has done the job: of its lease, or the one it was taken from, too soon as it turns out."""
        host = leased(job, place)
        left, counted = job.left or (None, "")
        if host or left is None or place not in (None, left.name):
            return host
        left.counters[counted] -= 1
        if job.lease:
            job.lease.host.counters["cancelled"] += 1
        if job.state in ("home", "local"):
            self.totals["fallback"] -= 1
            self.local_reasons -= {job.reason: 1}
        job.decision.choice, job.decision.reason, job.reason = left.name, None, None
        return left

    def finished(self, job, figures, now, place=None):
        """The object is in place, from the host named `place`. `figures`: JobFigures."""
        host = self.done_by(job, place)
        if host:
            if not job.slept:
                self.statistics.observe(host.key, host.load.cores if host.load else 0, figures)
                self.placement.terms.pop(host, None)
            host.counters["ok"] += 1
            host.bad_files.clear()
            host.recovers()
        if job.tries:                       # what went wrong elsewhere was no fault of the file
            self.memory.users.rows(job.uid).pop(job.remember_key, None)
        self.totals["remote"] += 1
        job.decision.actual_s = figures.total_s
        if figures.elapsed_s is not None:
            job.decision.server_s = figures.queue_s, figures.elapsed_s
        self.close(job, "ok", now)

    def failed(self, job, name, text, now, place=None):
        """What the client got from its host was no object: another host, then this box."""
        if not leased(job, place):      # it was taken from that host already
            return
        host = self.end_lease(job, now).host
        self.note(job, now, "%s: %s" % (host.name, text or reason_text(name)))
        if name == "lease-over":
            job.lapses += 1
        else:
            self.faults.blame(host, job, name, text, now)
            job.left = host, "failed"
            job.excluded.add(host.key)
            job.tries += 1
        if name == "timeout":               # it would take as long elsewhere
            self.go_home(job, name, now)
        elif job.tries >= TRIES_REMOTE or job.lapses >= 3:
            job.tries = max(job.tries, 1)
            self.go_home(job, "hosts-failed", now)
        else:
            self.queue(job, now, first=True)

    def to_local(self, job, reason, now, place=None):
        """The client gives up the farm for this job: what the host answered must be done again here."""
        host = leased(job, place)
        if host and reason in ("compile-error", "compiler-failed", "messages"):             # the host did its work
            job.suspect_host = host if reason != "messages" else None
            host.recovers()
        job.tries = max(job.tries, 1 if job.lease else 0)
        if reason == "messages":
            self.memory.remember(job.uid, job.remember_key, reason, job.text, now)
        self.go_home(job, reason, now)

    def local_ended(self, job, ok, now):
        """A local run has ended; `ok` None where nobody can know how."""
        host = job.suspect_host
        if ok and job.reason == "local-is-faster" and not job.slept:
            stretch = self.statistics.contention.stretch(len(self.locals.holders) + self.kin_running, self.cores)
            seconds = max(now - job.since - job.preprocess_s, 0.0) / stretch
            self.statistics.observe_local(job.size_kb, *job.keys(), seconds)
        if host and ok is not None:
            if ok:
                self.faults.bad_file(host, job, job.reason, "", now)
            else:
                self.totals["compile_errors"] += 1
                self.memory.remember(job.uid, job.remember_key, "compile-error", job.text, now)
        self.close(job, "ran here", now)

    def compile_failed(self, job, now):
        """The user takes the remote compiler's word that the source is wrong."""
        if job.lease:
            job.lease.host.recovers()
        self.totals["compile_errors"] += 1
        self.close(job, "compile error", now)

    def cancelled(self, job, now):
        """The client has gone before its end."""
        if job.lease:
            job.lease.host.counters["cancelled"] += 1
        self.totals["cancelled"] += 1
        self.close(job, "cancelled", now)

    def close(self, job, outcome, now):
        self.leave(job, now)
        job.decision.outcome = outcome
        job.enter("ended", now)
        self.jobs.discard(job)
        self.on_close(job)

    def note(self, job, now, sentence):
        job.decision.events.append((now - job.decision.at, sentence))


class Chooser(Ledger):
    """The submitting side's choices: whom to ask, and what hosts answer."""

    def granted(self, request, reservation, now):
        """A host has a slot for this request's group. Returns the job that gets it, or None: close the connection."""
        group, host = self.end_request(request, False), request.host
        host.full = False
        job = self.take_next(group, request, now)
        if job is None:
            host.counters["cancelled"] += 1
            self.hosts.room_again(host)
            return None
        group.remove(job)
        job.predicted_s = self.placement.predicted(host, job)
        lease = job.lease = Lease(host, job, reservation, now)
        host.leases.add(lease)
        host.uncounted += 1
        host.used_at = now
        self.dispatched += 1
        self.fair.take(job.uid)
        decision = job.decision
        decision.choice, decision.predicted_s = host.name, job.predicted_s
        job.enter("remote", now)
        self.actions.append(("socket", job, request))
        return job

    def take_next(self, group, request, now):
        """The group's next job for this slot; None where each would be done sooner elsewhere."""
        host = request.host
        fit = [job for job in group.queue
               if job.memory_mb <= request.memory_mb and host.key not in job.excluded]
        if not fit:
            return None
        frame = self.hosts.frame(group.kind(), now)
        job, ahead = self.suited(fit, host, frame, now)
        return job if self.bears(host, job, ahead, frame, now, {}) else None

    def bears(self, host, job, ahead, frame, now, least):
        """Whether a slot of this host should go to this job, rather than that it waits for a faster
        one. ahead: jobs that others get before it; least: {job: least cost anywhere}, filled here."""
        if self.placement.unknown(host) or frame.rank(host) >= 0:
            return True
        if job not in least:
            hosts = self.hosts.sample(frame, now, job.excluded)
            least[job] = self.placement.least(hosts, job)
        mean = self.statistics.remote.value
        most = CANDIDATE_COST_RATIO * (least[job] + ahead * mean / max(frame.slots, 1))
        return self.placement.cost(host, job, True) <= max(most, SLOW_JOB_RATIO * mean)

    def suited(self, fit, host, frame, now):
        """(which of these jobs this host should get, how many come before it elsewhere): in the order of coming where
        hosts are alike, but the longest once more wait than the host has slots; the longest for a fast one; the
        smallest for a slow one, and for one that must show first how it does. The longest are looked for among as many
        as the farm has slots: if all slots go to the longest of a great many, who comes later waits long for one."""
        if host.failures or self.placement.unknown(host):
            return min(fit, key=lambda j: j.weight), 0
        rank, first = frame.rank(host), fit[0]
        if rank < 0:
            return min(fit, key=lambda j: j.weight), len(fit) - 1
        young = now - first.since < 3 * (self.statistics.remote.value or 1.0) and not first.tries and not first.lapses
        if young and (rank > 0 or len(fit) > max(host.slots(), 1)):
            return max(fit[:max(frame.slots, 1)], key=lambda j: j.weight), 0
        return first, 0

    def parked(self, request, now):
        """All slots of that host are taken: stay in its queue, if this group waits there only once."""
        host, group = request.host, self.groups[request.group]
        host.asking -= 1
        group.asking -= 1
        request.state, group.settled = "parked", None
        host.full = True
        standing = [r for r in group.requests if r.state == "parked"]
        if len(group.at(host)) > 1 or len(standing) > min(PARKED_MAX, PARKED_PER_JOB * len(group.queue)):
            self.withdraw(request)

    def refused(self, request, name, text, now):
        """The host said no, cannot be reached or broke off before any job was bound to the request."""
        group, host = self.end_request(request), request.host
        if name == "compiler-unknown":
            host.misfit(request.group[1], now)
        elif name in BLAMELESS or name == "memory" and request.memory_mb > MEMORY_PER_JOB_MB:
            for job in group.queue:                 # for the job's sake: it and its like are not offered there again
                if {"too-large": job.size_kb >= request.size_kb,
                        "memory": job.memory_mb >= request.memory_mb}.get(name, True):
                    job.excluded.add(host.key)
        else:
            host.fails(name, text, now)
        host.counters["refused"] += 1
        self.totals["refused"] += 1

    def withdraw(self, request):
        self.end_request(request)
        self.actions.append(("withdraw", request))

    def end_request(self, request, room=True):
        group = self.groups[request.group]
        group.requests.remove(request)
        if request.state == "asking":
            request.host.asking -= 1
            group.asking -= 1
            if room:
                self.hosts.room_again(request.host)
        if not group.at(request.host):
            group.settled = None                # another may park there
        request.state = "ended"
        return group

    def report(self, host, load, now):
        """A load report has come from this host."""
        had_room = bool(host.load) and self.placement.has_room(host)
        if host.load and host.load.identities != load.identities:
            host.misfits.clear()
        restarted = host.load and host.load.instance != load.instance
        if restarted or host.silent(now):           # back again, and with it a clean slate
            host.misfits.clear()
            host.recovers()
        host.load, host.report_at, host.distrusted, host.version = load, now, None, None
        host.patience_s = max(PEER_TIMEOUT_S, PEER_TIMEOUT_INTERVALS * load.interval_ms / 1e3)
        host.full = load.waiting > 0             # a new request would park behind those
        host.ended = 0
        self.hosts.welcome(host, now, had_room)

    def counted_to(self, host, reservation):
        """The report just taken includes my reservations up to this number."""
        for lease in host.leases:
            lease.counted = 0 < lease.reservation <= reservation
        host.uncounted = sum(not lease.counted for lease in host.leases)
        if host.load.running >= len(host.leases) - host.uncounted:
            host.short_at = None
        elif host.short_at is None:
            host.short_at = host.report_at

    def texts_held(self):
        """Preprocessed texts that wait for a host; TEXTS_HELD_MAX of them when their size is at its limit."""
        if sum(group.kb for group in self.groups.values()) > TEXTS_HELD_MAX_KB:
            return TEXTS_HELD_MAX
        return sum(len(group.queue) for group in self.groups.values())

    def rank(self, uid, now):
        active, recent = self.fair.rank(uid, now)
        return active + sum(group.asking for group in self.groups.values() if group.key[0] == uid), recent

    def may_ask(self, group, now):
        """Whether hosts may be asked for this group. If there are none its jobs go elsewhere; an empty group goes."""
        if not group.queue:
            for request in list(group.requests):
                self.withdraw(request)
            del self.groups[group.key]
            return False
        if not self.hosts.any(group.kind(), now):
            for job in list(group.queue):
                if self.hosts.hopeless(job, now):
                    self.no_host_left(job, now)
            return False
        return True

    def ask_one(self, group, now):
        """Ask a host for a slot. False when nothing is left to ask."""
        for job in group.heads():
            if job.excluded and not self.hosts.any(group.kind(), now, job.excluded):
                if not self.hosts.hopeless(job, now, job.excluded):
                    continue
                self.excluded_everywhere(job, now)
                return bool(group.queue)
            if self.ask_for(job, group, now):
                return True
        return False

    def ask_for(self, job, group, now):
        """The best host with room for this job, or park where all are full. False when there is none."""
        frame, least = self.hosts.frame(group.kind(), now), {}
        free = self.hosts.candidates(frame, now, job.excluded)
        free = [host for host in free if host.has_memory(job.memory_mb)] or free
        tried = self.placement.worth_trying(free, job, now)
        rows = tried or [host for host in free if self.wanted(host, group, frame, now, least)]
        may_park = len(group.requests) < min(PARKED_MAX, PARKED_PER_JOB * len(group.queue))
        at_home = (not job.stays and self.statistics.host("local").measured()
                   and self.local_room() >= 1)
        if not (rows or may_park or at_home):
            return False
        others = self.hosts.sample(frame, now, job.excluded)
        best = 0.0
        if rows or at_home:
            best = self.placement.least(others if frame.few() else others + free, job)
        if at_home and self.far_sooner_here(job, best):
            self.go_home(job, "local-is-faster", now)
            return True
        rows, remark = self.placement.weigh(rows, job, now), ""
        rows = [row for row in rows
                if row[0] <= CANDIDATE_COST_RATIO * best or tried or frame.rank(row[1])]
        if may_park and not rows:
            full = [host for host in others
                    if self.placement.may_park(host, frame) and not group.at(host)
                    and self.hosts.serves(host, frame.kind, now)
                    and self.wanted(host, group, frame, now, least)]    # else its slot goes unused
            rows, remark = self.placement.weigh(full, job, now), "full"
        job.decision.candidates = [(host.name, cost, remark) for cost, host in rows[:8]]
        if not rows:
            return False
        self.ask(group, rows[0][1], job, now)
        return True

    def wanted(self, host, group, frame, now, least):
        """Whether some job of the group should take a slot there, if not the first."""
        ahead = 0 if host.failures else max(0, len(group.queue) - 1 - group.asking)
        return self.bears(host, group.lightest(), ahead, frame, now, least)

    def ask(self, group, host, job, now):
        request = Request(host, job, now)
        host.asking += 1
        group.asking += 1
        group.requests.append(request)
        self.actions.append(("ask", request))

    def local_room(self):
        """Cores of this box that neither its users, nor local compiles, nor preprocessing, nor other daemons need: one
        that they need for less than half of the time counts as free."""
        remote = sum(self.fair.active.values())
        pre, whole = self.statistics.preprocess.value, self.statistics.remote.value
        demand = max(len(self.turns.holders) + len(self.turns.waiting), remote * pre / whole if whole else 1)
        busy = len(self.locals.holders) + len(self.locals.waiting) + self.kin_running
        return min(self.slots - busy, self.home_limit - busy, int(self.cores - self.foreign - demand - busy + 0.5))

    def cost_here(self, job):
        """Predicted seconds of a compile on this box, which preprocesses again."""
        jobs = len(self.locals.holders) + self.kin_running + 1
        work = self.statistics.work("local", job.weight)
        return work * self.statistics.contention.stretch(jobs, self.cores) + job.preprocess_s

    def far_sooner_here(self, job, seconds):
        """Whether this box, by what is known of it, does the job so much sooner that its users may be
        disturbed."""
        here = self.cost_here(job)
        return seconds > max(CANDIDATE_COST_RATIO * here, here + LOCAL_GAIN_S)

    def excluded_everywhere(self, job, now):
        job.tries = max(job.tries, 1)
        self.go_home(job, "hosts-failed", now)

    def choose_mode(self, job, now):
        """-fdirectives-only costs this box less CPU and the link two to four times the bytes: only where the source
        bears it, and where most of the farm can take it over a link that carries it."""
        if not job.may_directives or self.plain_only.recall(job.uid, job.remember_key, now):
            return MODE_PLAIN
        return MODE_DIRECTIVES if self.hosts.directives(job.identity, now) else MODE_PLAIN


class Scheduler(Chooser):
    """The whole of the submitting side: pump() after every event, and what is done as time passes."""

    def pump(self, now):
        """Grant turns, ask hosts, offer this box's own slots. Everything that may have become possible is done."""
        pending = [group for group in list(self.groups.values())
                   if self.may_ask(group, now) and group.settled != self.hosts.changes]
        changed = bool(pending)
        ranks = {}                          # uid: rank, until one more is asked for

        def rank(group):
            uid = group.key[0]
            if uid not in ranks:
                ranks[uid] = self.rank(uid, now)
            return ranks[uid]
        while pending:                      # one question at a time, each for the user who has and asks for least
            group = pending[0] if len(pending) == 1 else min(pending, key=rank)
            ranks.pop(group.key[0], None)
            if group.asking >= len(group.queue) or not self.ask_one(group, now):
                pending.remove(group)
                group.settled = self.hosts.changes
        if changed:
            self.offer_local(now)
        if self.turns.waiting.keys and self.texts_held() < TEXTS_HELD_MAX:
            for job in self.turns.grant(self.turn_limit, now):
                job.mode = self.choose_mode(job, now)
                job.enter("preprocess", now)
                self.actions.append(("turn", job))
        for job in self.locals.grant(self.slots, now):
            job.enter("local", now)
            self.actions.append(("local", job))

    def offer_local(self, now):
        """This box as one more host: for jobs that no host has room for, where it is done sooner than waiting for
        one."""
        groups = self.groups.values()
        choosy = [job for group in groups for job in group.queue[:4] if job.excluded]       # they came back to its head
        last = [job for group in groups for job in group.queue[group.asking:][-4:]]
        for job in dict.fromkeys(choosy + last[:-5:-1]):
            if self.local_room() < 1:
                return
            if job.stays or self.hosts.any_free(job.kind(), now, job.excluded):
                continue
            here, figures = self.cost_here(job), self.statistics.host("local")
            hosts = self.hosts.sample(self.hosts.frame(job.kind(), now), now, job.excluded)
            others = [row for row in job.decision.candidates if row[0] != "this box"]
            job.decision.candidates = others + [("this box", here, "%d samples" % figures.samples)]
            if here < self.placement.least(hosts, job):
                self.go_home(job, "local-is-faster", now)

    def make_jobs(self, now):
        """A number for make -j: what the farm takes now, and what this box can preprocess meanwhile."""
        remote = sum(host.slots() for host in self.hosts.values() if host.usable(now) or host.leases)
        return max(1, remote + self.cores if remote else self.slots)

    def tick(self, now):
        """Time passes: silent hosts lose jobs and requests, late jobs are taken back, unanswered questions end."""
        self.history.sample(self, now)
        for host in self.hosts.values():
            for lease in list(host.leases):
                spent = now - lease.since
                if host.silent(now):
                    self.failed(lease.job, "silent", "", now)
                elif spent > self.patience(host, lease.job, now):
                    self.failed(lease.job, "stalled", "no answer for %d s" % spent, now)
                elif host.kind == "peer" and spent > self.job_timeout_s + OVERDUE_S:    # nor would it end it, then
                    self.memory.remember(lease.job.uid, lease.job.remember_key, "timeout", "", now)
                    self.take_back(lease.job, True, spent, now)
        for group in list(self.groups.values()):
            for request in list(group.requests):
                late = request.state == "asking" and now - request.since > ADMISSION_TIMEOUT_S
                if late or request.host.silent(now):
                    self.refused(request, "silent", "no answer for %d s" % (now - request.since), now)
                    self.actions.append(("withdraw", request))
        if not (any(group.queue for group in self.groups.values()) or self.turns.holders or self.turns.waiting.keys):
            self.hedge(now)

    def patience(self, host, job, now):
        """Seconds until a job is taken back and its host to blame. A plain distccd shows no other sign of being stuck;
        one of ours goes silent, or for long has told of fewer jobs than it took: else it runs it, and ends what takes
        longer than its own --job-timeout."""
        late = max(OVERDUE_S, OVERDUE_RATIO * (job.predicted_s or 0.0))
        if host.kind == "distccd":
            return late
        return 2 * late if host.short_at is not None and now - host.short_at > OVERDUE_S else math.inf

    def hedge(self, now):
        """Nothing is left to dispatch, so stragglers may have a second place, this box or another host; the client goes
        on with what it has until it is told of that. First come those that have run for far longer than they should,
        the worst predicted before others; then those that are at the wrong host, as it turns out. Rows are (rank,
        seconds within which it must end elsewhere, seconds spent, job)."""
        late, misplaced = [], []
        for job in self.jobs:
            if job.lease:
                spent, host = now - job.lease.since, job.lease.host
                least = HEDGE_BLIND_S if self.placement.unknown(host) else HEDGE_LEAST_S
                rest, longer = self.placement.rest(job, spent)
                if spent > max(least, HEDGE_RATIO * job.predicted_s):
                    late.append((spent / job.predicted_s, spent, spent, job))
                elif rest > MOVE_RATIO * HEDGE_LEAST_S:
                    misplaced.append((rest, rest / MOVE_RATIO / longer, spent, job))
        for rows, share in ((late, HEDGE_SHARE), (misplaced, MOVE_SHARE)):
            for _, within, spent, job in sorted(rows, key=lambda row: (row[0], row[2]), reverse=True):
                known = rows is late or self.statistics.host("local").measured()
                home = known and not job.stays and self.local_room() >= 1 and self.cost_here(job) < within
                if not (home and rows is misplaced):    # which takes no place from anybody, and is sure to be sooner
                    if self.second_places >= max(1, share * self.dispatched) or not home and (
                            self.placement.least(self.second_hosts(job, rows is misplaced, now), job) >= within):
                        continue
                    self.second_places += 1
                self.totals["hedged"] += 1
                self.take_back(job, home, spent, now)

    def second_hosts(self, job, measured, now):
        """Other hosts with room for this job; only those whose speed is known, if `measured`."""
        frame = self.hosts.frame(job.kind(), now)
        hosts = self.hosts.candidates(frame, now, job.excluded | {job.lease.host.key})
        return [host for host in hosts if not measured or self.statistics.host(host.key).measured()]

    def take_back(self, job, home, spent, now):
        """It gets another place, without blame for the host."""
        host = self.end_lease(job, now).host
        host.counters["cancelled"] += 1
        job.left = host, "cancelled"
        self.note(job, now, "taken from %s after %.1f s, predicted were %.1f s" % (host.name, spent, job.predicted_s))
        job.excluded.add(host.key)
        if home:
            job.tries = max(job.tries, 1)
            self.go_home(job, "late", now)
        else:
            self.queue(job, now, first=True)

    def forgive(self, gap):
        """This box stood still for so many seconds: nobody else was silent or late meanwhile."""
        for host in self.hosts.values():
            if host.report_at is not None:
                host.report_at += gap
            for lease in host.leases:
                lease.since += gap
        for job in self.jobs:
            job.slept = True
        for group in self.groups.values():
            for request in group.requests:
                request.since += gap

    def check(self):
        """Conservation: raises AssertionError where books do not balance."""
        leases = sum(len(host.leases) for host in self.hosts.values())
        remote = [job for job in self.jobs if job.lease]
        assert leases == len(remote), "%d leases but %d jobs with one" % (leases, len(remote))
        assert all(job.state == "remote" for job in remote), "a lease with a job that is not remote"
        for group in self.groups.values():
            assert all(job.group() == group.key for job in group.queue), "a job in another group's queue"
            assert group.kb == sum(job.size_kb for job in group.queue), "the sizes of a group do not add up"
            asking = sum(request.state == "asking" for request in group.requests)
            assert group.asking == asking, "a group asks %d times, not %d" % (asking, group.asking)
        queued = sum(len(group.queue) for group in self.groups.values())
        waiting = sum(job.state == "wait" for job in self.jobs)
        assert queued == waiting, "%d jobs queued but %d wait" % (queued, waiting)
        assert len(self.locals.holders) == sum(job.state == "local" for job in self.jobs), "local slots leak"
        asking = collections.Counter(r.host for g in self.groups.values() for r in g.requests if r.state == "asking")
        for host in self.hosts.values():
            assert host.asking == asking[host], "%s: %d asked for, %d requests" % (host.name, host.asking, asking[host])


# ==== 7. Job server =================================================================================================
# Runs other machines' compiles: the spawner and containment, what is offered, connections. Uses 1 to 6.

# The daemon decides when jobs end: ^C in its terminal, or systemd's SIGTERM to the cgroup, reach the spawner as well.
IGNORED_SIGNALS = ("SIGINT SIGTERM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGTSTP SIGTTIN SIGTTOU SIGPIPE SIGXFSZ"
                   " SIGXCPU").split()
PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 15, 36, 38
O_FOLDER = getattr(posix, "O_PATH", posix.O_RDONLY) | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


def ignored_signals():
    return [getattr(signal, name) for name in IGNORED_SIGNALS]


class StartError(Exception):
    """The daemon cannot start; str() says why in one line. Exit status 1."""


class ContainmentError(Exception):
    """The spawner cannot be had as asked; the text is one line for the admin."""


class RequestTooLarge(Exception):
    """This job's argv and environment exceed one message; the text says the limit. The host is fine, the job is not."""


class SpawnerGone(Exception):
    """The spawner died: kill_known_groups(), close its jobs, exit 1."""


class BadSource(Exception):
    """A job's source cannot be unpacked; errno EFBIG: it is too large, EBADMSG: it is nonsense."""

    def __init__(self, number, text):
        super().__init__(text)
        self.errno = number


class UnsafeResult(Exception):
    """What a job left under a result's name is no regular file of the job user with one link."""


class SpawnSettings:
    __slots__ = ("user", "nice", "job_timeout_s", "contain", "tmpdir", "compiler_dirs", "max_file_bytes",
                 "address_space_bytes")

    def __init__(self, user="nobody", nice=10, job_timeout_s=600, contain="auto", tmpdir="/tmp", compiler_dirs=(),
                 max_file_bytes=1 << 30, address_space_bytes=None):
        self.user = user                                # name; counts only when started as root
        self.nice = nice                                # increment, as of nice(1); below 0 only as root
        self.job_timeout_s = job_timeout_s              # wall clock, unpacking too; the CPU limit follows from it
        self.contain = contain                          # auto | require | off
        self.tmpdir = tmpdir                            # the base folder is made in here
        self.compiler_dirs = tuple(compiler_dirs)       # --compilers, readable for every job
        self.max_file_bytes = max_file_bytes            # RLIMIT_FSIZE
        self.address_space_bytes = address_space_bytes  # RLIMIT_AS or None


class Account:
    __slots__ = ("uid", "gid", "name", "dropped")

    def __init__(self, uid, gid, name, dropped):
        self.uid, self.gid, self.name = uid, gid, name
        self.dropped = dropped                          # started as root and becomes another


def job_account(user, contain):
    """The Account that compilers run as. ContainmentError when there is no such user."""
    import pwd
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), "", False)
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, TypeError):
        raise ContainmentError("--user %s: no such user" % user) from None
    if entry.pw_uid == 0 and contain != "off":
        raise ContainmentError("--user %s: compilers are not run as root, except with --contain off" % user)
    return Account(entry.pw_uid, entry.pw_gid, user, entry.pw_uid != 0)


def choose_containment(contain, abi, is_root, user):
    """(containment, may_clang, may_directives_only); ContainmentError where 'require' cannot be had. Pure.

    clang obeys a leftover #include in a plain .i, and gcc one in a directives-only text: so without Landlock neither is
    offered, unless the admin says so by 'off'. abi: what landlock_abi() gave, 0 for none."""
    if contain != "off" and abi >= 1:
        return "landlock", True, True
    if contain == "require":
        raise ContainmentError("--contain require: this kernel (or the Python here) has no Landlock")
    return ("user" if is_root and user not in (None, "", "root") else "none",) + (contain == "off",) * 2


# ------------------------------------------------------------------------------------------------- Landlock by ctypes
# Access bits by the ABI that brought them (linux/landlock.h). All that the kernel knows are handled, so denied; rules
# then allow. REFER stays denied: nothing is moved between folders.
FS_EXECUTE, FS_WRITE, FS_READ, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_REMOVE_FILE, FS_MAKE_REG, FS_TRUNCATE = 1 << 5, 1 << 8, 1 << 14
FS_HANDLED_BY_ABI = ((1, (1 << 13) - 1), (2, 1 << 13), (3, FS_TRUNCATE), (5, 1 << 15))     # 13 REFER, 15 IOCTL_DEV
NET_HANDLED = 1 << 0 | 1 << 1                           # bind and connect TCP, ABI 4
SCOPED = 1 << 0 | 1 << 1                                # abstract unix sockets and signals to outside, ABI 6
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446     # the same number on every architecture but these:
OTHER_NUMBERS = ("alpha", "mips")
LANDLOCK_RULESET = Layout("=QQQ")                # fs, net, scoped; an older kernel takes 8 or 16 bytes of it
LANDLOCK_RULE = Layout("=Qi")                    # allowed access, fd of the folder or file: packed, 12 bytes

READ_FOLDER = FS_EXECUTE | FS_READ | FS_READ_DIR
JOB_FOLDER = FS_READ | FS_READ_DIR | FS_WRITE | FS_TRUNCATE | FS_MAKE_REG | FS_REMOVE_FILE
# JOB_FOLDER has no EXECUTE: what a job writes is never run. No MAKE_DIR, _SYM, _FIFO, _SOCK: gcc and clang need none,
# and a folder of plain files is removed quickly and safely.

# What gcc 12, clang 14, as and cc1plus open under strace, and no more: not all of /usr, where /usr/local/etc, /usr/src,
# /usr/share and a site's own folders may hold what no submitter should read. /usr/include is only stat'ed, which
# Landlock leaves alone, and an include of it shall fail. Nor /proc and /sys: access() and readlink() of /proc/self/exe
# and /proc/self/fd are no opens.
TOOLCHAIN_FOLDERS = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec",
                     "/usr/share/locale", "/usr/share/locale-langpack", "/bin", "/lib", "/lib32", "/lib64", "/libx32",
                     "/etc/alternatives")
TARGET_PARENT = "/usr"              # binutils and libraries of cross compilers: /usr/aarch64-linux-gnu and its like
READABLE_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/dev/urandom",
                  # clang asks which distribution it is on, and chooses defaults by that
                  "/etc/os-release", "/etc/lsb-release", "/etc/redhat-release", "/etc/debian_version",
                  "/etc/SuSE-release", "/etc/alpine-release", "/etc/arch-release", "/etc/gentoo-release",
                  "/etc/exherbo-release", "/etc/fedora-release", "/etc/centos-release", "/etc/system-release")
WRITABLE_FILES = ("/dev/null",)


def libc():
    """PyDLL, not CDLL: these calls take a microsecond, and releasing the GIL for each costs more than that."""
    import ctypes
    library = ctypes.PyDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def set_process_flag(option, value):
    """prctl. False where there is none (not Linux, no ctypes)."""
    try:
        return sys.platform.startswith("linux") and libc().prctl(option, value, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        return False


def landlock_abi():
    """0: no Landlock (other system, old kernel, not in the boot line's lsm=, seccomp, Python without ctypes)."""
    if not sys.platform.startswith("linux") or os.uname().machine.startswith(OTHER_NUMBERS):
        return 0
    try:
        return max(0, libc().syscall(CREATE_RULESET, None, 0, 1))           # 1: asks for the version
    except (ImportError, OSError, AttributeError):
        return 0


class Landlock:
    """Builds and enters one domain per job. Measured (ABI 7, 16 rules): 40 us for all in one ruleset, 10 of them to
    enter. A fixed layer for the process under a job layer takes 25 to 45: layers only intersect, so the second repeats
    the rules for reading; and it would bind the spawner's main thread, which must signal every job."""
    __slots__ = ("libc", "errno", "handled", "ruleset", "folders", "fixed", "refreshed")

    def __init__(self, abi, compiler_dirs):
        import ctypes
        self.libc, self.errno = libc(), ctypes.get_errno
        self.handled = sum(bits for since, bits in FS_HANDLED_BY_ABI if abi >= since)
        packed = LANDLOCK_RULESET.pack(self.handled, NET_HANDLED if abi >= 4 else 0, SCOPED if abi >= 6 else 0)
        self.ruleset = packed[:24 if abi >= 6 else 16 if abi >= 4 else 8]
        self.folders = TOOLCHAIN_FOLDERS + tuple(compiler_dirs)
        self.fixed = (), ()             # the fixed rules: open files, packed rules; always replaced as one
        self.refreshed = -math.inf

    def refresh(self, now):
        """Opens the fixed rules anew where they are old. Main thread only: job threads use the list that they read."""
        if now - self.refreshed < RULES_REFRESH_S:
            return
        try:
            self.fixed = self.open_rules()
            self.refreshed = now
        except OSError:                 # out of descriptors: what is open will do; a job that has none fails alone
            if not self.fixed[1]:
                raise

    def open_rules(self):
        """(open files, packed rules). OSError where that cannot be told, as out of descriptors."""
        targets = tuple(os.path.join(TARGET_PARENT, name) for name in os.listdir(TARGET_PARENT) if name.count("-") > 1)
        wanted = [(path, READ_FOLDER) for path in self.folders + targets]
        wanted += [(path, FS_READ) for path in READABLE_FILES]
        wanted += [(path, FS_READ | FS_WRITE | FS_TRUNCATE) for path in WRITABLE_FILES]
        fds, rules = [], []
        for path, access in wanted:
            try:
                fds.append(OwnedFd(path, access & FS_READ_DIR))
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                continue                # absent on this system
            rules.append(LANDLOCK_RULE.pack(access & self.handled, fds[-1].fd))
        # The old descriptors are closed by the last job thread that still uses the old rules, hence OwnedFd.
        return fds, rules

    def _call(self, number, *arguments):
        value = self.libc.syscall(number, *arguments)
        if value < 0:
            raise OSError(self.errno(), "Landlock: " + os.strerror(self.errno()))
        return value

    def restrict_thread(self, folder_fd, readable):
        """For the calling thread and its future children, for ever. OSError."""
        held, rules = self.fixed                                # held: their descriptors stay open for the rules
        ruleset = self._call(CREATE_RULESET, self.ruleset, len(self.ruleset), 0)
        try:
            for rule in rules:
                self._call(ADD_RULE, ruleset, 1, rule, 0)
            self._call(ADD_RULE, ruleset, 1, LANDLOCK_RULE.pack(JOB_FOLDER & self.handled, folder_fd), 0)
            for path in filter(os.path.isdir, readable):        # without it the compiler says itself what it misses
                extra = OwnedFd(path, True)
                self._call(ADD_RULE, ruleset, 1, LANDLOCK_RULE.pack(READ_FOLDER, extra.fd), 0)
            self._call(RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
            del held


class OwnedFd:
    """An O_PATH descriptor that closes with its last reference."""
    __slots__ = ("fd",)

    def __init__(self, path, is_folder):
        """OSError, also where it is the other kind: the kernel refuses rights on folders for a file."""
        self.fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if is_folder else 0))

    def __del__(self):
        if hasattr(self, "fd"):                         # not where open failed
            os.close(self.fd)


# -------------------------------------------------------------------------------------- folders, as seen by the daemon
# The daemon may be root, and the folders belong to the job user, perhaps a hostile one. So: by descriptor, never by
# path; no link followed; nothing opened that could block; and what is there is checked after opening, not before.
AREA_PREFIX = "distcc_lm-jobs-"     # of nothing else, ours (distcc_lm-UID) or a user's: stale ones are emptied


class JobArea:
    """The base folder and the job folders in it: 0700, the job user's own, so that the spawner can remove them too."""
    __slots__ = ("path", "fd", "account")

    def __init__(self, tmpdir, account):
        """OSError. Removes the areas of daemons that died together with their spawner."""
        self.account = account
        remove_stale_areas(tmpdir, account)
        while True:
            self.path = os.fsencode(tempfile.mkdtemp(prefix=AREA_PREFIX, dir=tmpdir))
            try:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue                                # a daemon starting beside us took it for stale
            fcntl.flock(self.fd, fcntl.LOCK_SH)
            if os.fstat(self.fd).st_nlink:
                break
            os.close(self.fd)
        if account.dropped:
            os.fchown(self.fd, account.uid, account.gid)

    def make_folder(self):
        """(path, descriptor) of a new empty folder of the job user. OSError."""
        name = os.urandom(8).hex().encode()             # not to be guessed and made beforehand by a running job
        os.mkdir(name, 0o700, dir_fd=self.fd)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        if self.account.dropped:
            status = os.fstat(fd)
            if status.st_uid != 0 or status.st_mode & 0o7777 != 0o700 or os.listdir(fd):
                os.close(fd)                            # without Landlock a job can move things about in here
                raise OSError(errno.EPERM, "job folder was replaced while it was made")
            os.fchown(fd, self.account.uid, self.account.gid)
        return self.path + b"/" + name, fd

    def remove_folder(self, path, dir_fd):
        """Closes dir_fd. False when it is no matter of a few files, and the spawner should do it."""
        try:
            names = os.listdir(dir_fd)
            for name in names[:QUICK_REMOVE_FILES]:
                os.unlink(name, dir_fd=dir_fd)
            if len(names) <= QUICK_REMOVE_FILES:
                os.rmdir(os.path.basename(path), dir_fd=self.fd)
                return True
        except OSError:
            pass
        finally:
            os.close(dir_fd)
        return False

    def remove(self):
        """Everything, if there is anything left, and closes."""
        try:
            empty_folder(self.fd)
            os.rmdir(self.path)
        except OSError:
            pass                                        # removed by the spawner; or the next start finds it stale
        os.close(self.fd)


def kill_tenants(folder, uid):
    """SIGKILL to what still works below a stale area: its spawner, killed together with the daemon, could not. A user's
    shell that happens to be there stays: only jobs can gain no privileges."""
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc/self/fd") else ()):
        try:
            inside = os.readlink("/proc/%s/cwd" % pid).startswith(folder + "/")
            if inside and os.stat("/proc/" + pid).st_uid == uid:
                with open("/proc/%s/status" % pid) as file:
                    if "NoNewPrivs:\t1" in file.read():
                        os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue                                    # it has ended, or is none of ours


def remove_stale_areas(tmpdir, account):
    """Daemon and spawner hold a lock on their base folder: one without is nobody's. Only our own or the job user's."""
    try:
        folder = os.open(tmpdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return                                          # mkdtemp will say why
    for name in os.listdir(folder):
        if not name.startswith(AREA_PREFIX):
            continue
        fd = -1
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            if os.fstat(fd).st_uid in (os.geteuid(), account.uid):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                kill_tenants(os.path.join(os.path.realpath(tmpdir), name), account.uid)
                empty_folder(fd)
                os.rmdir(name, dir_fd=folder)
        except OSError:
            pass                                        # in use, or someone else's
        finally:
            if fd >= 0:
                os.close(fd)
    os.close(folder)


def create_source(dir_fd, name):
    """Descriptor of a new file for writing. 0644 whatever the umask: root writes it, the job user reads it, and nobody
    else gets into the folder. OSError."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    os.fchmod(fd, 0o644)
    return fd


NO_ROOM = "ENOSPC", "EDQUOT", "EFBIG", "EROFS"
TEXT_NAMES = b"out", b"err"            # files of the job folder: what the compiler said on stdout and stderr


F_ADD_SEALS, F_SEAL_GROW = 1033, 4      # linux/fcntl.h; not all of Python's fcntl name them


def open_texts(dir_fd, texts):
    """Fills texts {name: descriptor} with files for the compiler to write to; in memory where the system has that: most
    stay empty, and a file costs up to 0.3 ms (ext4). OSError."""
    for name in TEXT_NAMES:
        if hasattr(os, "memfd_create"):
            texts[name] = fd = os.memfd_create(name.decode(), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, MAX_MESSAGE_BYTES)         # more is not sent; without the seal it would be 400 MB of a
            fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_GROW)   # hostile source's .print. How much it is the offset tells
        else:
            texts[name] = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)


def keep_texts(folder, texts):
    """Closes them; what is in memory and not empty goes into the job folder. A hostile job may have put something else
    there: then that is what is found."""
    for name, fd in texts.items():
        try:
            size = os.lseek(fd, 0, os.SEEK_CUR)
            if hasattr(os, "memfd_create") and size:
                with open(os.path.join(folder, name), "xb", opener=lambda *how: os.open(*how, 0o600)) as file:
                    file.write(os.pread(fd, size, 0))
        except OSError:
            pass                                        # no room: the answer goes without words
        os.close(fd)


def open_result(dir_fd, name, uid):
    """(descriptor, size) of what a job of this uid wrote. FileNotFoundError when it wrote none; UnsafeResult for links,
    fifos, devices and other people's files: a hostile job can name them so."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        raise UnsafeResult("%s: %s" % (os.fsdecode(name), error.strerror)) from None
    status = os.fstat(fd)
    if status.st_mode & 0o170000 == 0o100000 and status.st_uid == uid and status.st_nlink == 1:
        return fd, status.st_size
    os.close(fd)
    raise UnsafeResult("%s: no regular file of the job's own" % os.fsdecode(name))


def empty_folder(fd):
    """Removes what is in the folder, without recursion: a hostile tree may be deeper than stack and descriptors reach.
    So sub-folders are emptied of files, and their own sub-folders moved up into fd, until none is left. OSError."""
    serial = 0
    while True:
        names = os.listdir(fd)
        if not names:
            return
        for name in names:
            if remove_plain(name, fd):
                continue
            inner = open_own_folder(name, fd)
            try:
                for child in os.listdir(inner):
                    if remove_plain(child, inner):
                        continue
                    os.close(open_own_folder(child, inner))     # a folder must be writable to be moved
                    serial += 1
                    os.rename(child, ".up-%d-%s" % (serial, os.urandom(4).hex()), src_dir_fd=inner, dst_dir_fd=fd)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=fd)


def remove_plain(name, dir_fd):
    """True when it was a file, link, … or an empty folder and is gone; False for a folder with something in it."""
    try:
        os.unlink(name, dir_fd=dir_fd)
        return True
    except (IsADirectoryError, PermissionError):        # unlink of a folder: EISDIR on Linux, EPERM by POSIX
        pass
    except FileNotFoundError:
        return True
    try:
        os.rmdir(name, dir_fd=dir_fd)
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM):
            return False
        raise


def open_own_folder(name, dir_fd):
    """Descriptor of a sub-folder, made accessible if a job took its permissions away. No link is followed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        fd = os.open(name, O_FOLDER, dir_fd=dir_fd)
        try:
            os.chmod("/proc/self/fd/%d" % fd, 0o700)    # fchmod refuses O_PATH, chmod by name would follow a link
        finally:
            os.close(fd)
        fd = os.open(name, flags, dir_fd=dir_fd)
    os.fchmod(fd, 0o700)
    return fd


# ---------------------------------------------------------------------------------- messages between daemon and spawner
REQUEST = Layout("=cQQHHH")      # operation, job, limit, numbers of argv, environment and readable; then NUL-joined
SPAWN, KILL, REMOVE = b"S", b"K", b"R"  # REMOVE: the first string is a folder
RESULT = Layout("=cQqdQd")       # kind, job, pid or errno or wait status, CPU s, KB, elapsed s; then a text
RESULT_KINDS = {b"s": "started", b"f": "failed", b"e": "ended"}
PACKED_NAME = b"packed.lzo"             # a source as it came, of protocol 2 or by zlib
READY = b"ready "                       # first message of a spawner: this and the containment; otherwise the reason


class SpawnRequest:
    __slots__ = ("operation", "job_id", "folder", "argv", "env", "readable", "packed", "address_space")

    def __init__(self, operation, job_id=0, folder=b"", argv=(), env=(), readable=(), packed=b"", address_space=0):
        self.operation, self.job_id, self.folder = operation, job_id, folder
        self.address_space = address_space                          # bytes; 0: no limit
        self.argv, self.env, self.readable = argv, env, readable    # bytes; bytes to bytes; folders
        self.packed = packed            # b"METHOD:NAME": PACKED_NAME is to be unpacked to NAME; methods: lzo, zlib


def encode_request(request):
    """ValueError when a string holds NUL or there are more than 65,535."""
    strings = [request.folder, request.packed, *request.argv,
               *(key + b"=" + value for key, value in dict(request.env).items()), *request.readable]
    if any(b"\0" in string for string in strings):
        raise ValueError("NUL in an argument, the environment or a folder")
    try:
        head = REQUEST.pack(request.operation, request.job_id, request.address_space, len(request.argv),
                            len(request.env), len(request.readable))
    except struct.error as error:
        raise ValueError("request: %s" % error) from None
    return head + b"\0".join(strings)


def decode_request(message):
    """ValueError when it is none."""
    try:
        operation, job_id, limit, arguments, variables, folders = REQUEST.unpack_from(message)
    except struct.error:
        raise ValueError("short request") from None
    folder, *strings = message[REQUEST.size:].split(b"\0")
    if len(strings) != 1 + arguments + variables + folders:
        raise ValueError("request of %d strings" % len(strings))
    packed = strings.pop(0)
    env = dict(pair.split(b"=", 1) for pair in strings[arguments:arguments + variables])
    return SpawnRequest(operation, job_id, folder, strings[:arguments], env, strings[arguments + variables:], packed,
                        limit)


class SpawnResult:
    """kind 'started': pid. 'failed': errno, text (nothing runs). 'ended': wait_status as of wait(), elapsed_s, cpu_s
    and max_rss_kb of the driver and all that it waited for (never below the spawner's own 15 MB: exec keeps the mark),
    reason '' | 'killed' | 'timeout' (the spawner ended it)."""
    __slots__ = ("job_id", "kind", "value", "cpu_s", "max_rss_kb", "elapsed_s", "text")

    def __init__(self, job_id, kind, value, cpu_s=0.0, max_rss_kb=0, elapsed_s=0.0, text=""):
        self.job_id, self.kind, self.value = job_id, kind, value
        self.cpu_s, self.max_rss_kb, self.elapsed_s, self.text = cpu_s, max_rss_kb, elapsed_s, text

    pid = errno = wait_status = property(lambda self: self.value)      # by kind
    reason = property(lambda self: self.text)


def encode_result(result):
    return RESULT.pack(result.kind[0].encode(), result.job_id, result.value, result.cpu_s, result.max_rss_kb,
                       result.elapsed_s) + result.text.encode(errors="replace")[:RESULT_TEXT_BYTES]


def decode_result(message):
    """struct.error or KeyError when it is none."""
    kind, job_id, value, cpu_s, max_rss_kb, elapsed_s = RESULT.unpack_from(message)
    text = message[RESULT.size:].decode(errors="replace")
    return SpawnResult(job_id, RESULT_KINDS[kind], value, cpu_s, max_rss_kb, elapsed_s, text)


# -------------------------------------------------------------------------------------------------- the spawner process
def kill_group(pgid):
    try:
        os.killpg(pgid, signal.SIGKILL)
    except OSError:
        pass                                            # nobody left in it


def signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue                                    # gone


class RunningJob:
    __slots__ = ("job_id", "pid", "started", "deadline", "reason")

    def __init__(self, job_id, timeout_s):
        self.job_id = job_id
        self.pid = 0                    # 0: not started yet. Its group is the pid as well. Unreaped while it is set
        self.started = time.monotonic()         # its compiler was
        self.deadline = self.started + timeout_s        # of all; that of a later job is later
        self.reason = ""                # why the spawner ends it; set before the start it prevents the start


class Orphans:
    """Children that the spawner inherited from jobs. As subreaper it becomes the parent of whatever outlives its
    parent, also out of its group by setsid. The kernel gives such orphans to the first thread, while a job thread's
    compiler is a child of that thread: so the first thread's list of children is exactly the orphans."""
    __slots__ = ("fd", "lock", "jobs")

    def __init__(self, lock, jobs):
        self.lock, self.jobs = lock, jobs       # the SpawnServer's
        self.fd = -1
        try:
            fd = os.open("/proc/self/task/%d/children" % os.getpid(), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return                              # no /proc, or a kernel without the list: orphans go to init, unkilled
        if set_process_flag(PR_SET_CHILD_SUBREAPER, 1):
            self.fd = fd
        else:
            os.close(fd)

    def pids(self):
        if self.fd < 0:
            return []
        return [int(pid) for pid in os.pread(self.fd, 65536, 0).split()]

    def end(self, patience_s):
        """Kills and reaps what outlived its parent, until none is left that we may signal. Not in the groups of running
        jobs, which end with these. In a job thread under ABI 6: of this job only."""
        deadline = time.monotonic() + patience_s
        while self.pids():                              # the usual case: one pread, 4 us
            left = False
            with self.lock:                             # nobody else reaps: the numbers listed here stay valid
                groups = {job.pid for job in self.jobs.values()}
                for pid in self.pids():
                    try:
                        if os.waitpid(pid, os.WNOHANG)[0] or os.getpgid(pid) in groups:
                            continue
                        os.kill(pid, signal.SIGKILL)
                        left = True
                    except OSError:
                        continue                        # gone, or another job's domain: that job's thread ends it
            if not left or time.monotonic() >= deadline:
                return
            time.sleep(0.001)

    def end_trees(self, patience_s):
        """Main thread: orphans that fork faster, in sessions of their own, than a job thread kills them. Stopped ones
        keep their places under RLIMIT_NPROC, so stopping them all comes to an end, and only then are they killed.
        (A job thread cannot: Landlock keeps it from /proc.)"""
        if not self.pids():
            return
        deadline, stopped = time.monotonic() + patience_s, set()
        with self.lock:
            while time.monotonic() < deadline:
                found = self._trees() - stopped
                if not found:
                    break
                stopped |= found
                signal_all(found, signal.SIGSTOP)
            signal_all(stopped, signal.SIGKILL)
        self.end(0)

    def _trees(self):
        """Pids of the orphans and all below them, except what is in the groups of running jobs. Under the lock."""
        groups = {job.pid for job in self.jobs.values()}
        found, left = set(), self.pids()
        while left:
            pid = left.pop()
            try:
                if pid in found or os.getpgid(pid) in groups:
                    continue
                found.add(pid)
                for thread in os.listdir("/proc/%d/task" % pid):
                    with open("/proc/%d/task/%s/children" % (pid, thread), "rb") as file:
                        left += map(int, file.read().split())
            except OSError:
                continue                                # it ended; its children are orphans now
        return found


class SpawnServer:
    """Main thread: requests, kills, timeouts. It never enters Landlock: with ABI 6 a job thread may signal only its own
    job. A thread a job: Landlock cannot be left, so the thread ends with the job."""
    __slots__ = ("channel", "area_fd", "area_path", "settings", "landlock", "jobs", "lock", "orphans",
                 "crowded", "nice", "cpu_limit")

    def __init__(self, channel, area_path, settings):
        self.channel, self.area_path, self.settings = channel, area_path, settings
        self.area_fd = os.open(area_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(self.area_fd, fcntl.LOCK_SH)
        self.landlock = None
        self.jobs = {}                  # job id to RunningJob, in the order of their start, so of their deadlines
        self.lock = _thread.allocate_lock()     # over jobs, the working folder, and reaping against killing
        self.orphans = Orphans(self.lock, self.jobs)
        self.crowded = []               # (work, its arguments, deadline): threads to start once there is room for one
        self.nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + max(0, settings.nice))
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        cpu_s = math.ceil(settings.job_timeout_s)
        self.cpu_limit = cpu_s if hard == resource.RLIM_INFINITY else min(cpu_s, hard), hard

    def enter_landlock(self, abi):
        """Tries the rules in a thread that then ends: seccomp may let the version be asked, and no more. OSError."""
        landlock = Landlock(abi, self.settings.compiler_dirs)
        landlock.refresh(time.monotonic())
        outcome = []
        done = _thread.allocate_lock()
        done.acquire()

        def attempt():
            try:
                landlock.restrict_thread(self.area_fd, ())
            except OSError as error:
                outcome.append(error)
            done.release()
        _thread.start_new_thread(attempt, ())
        done.acquire()
        if outcome:
            raise outcome[0]
        self.landlock = landlock

    def run(self):
        poller = select.poll()
        poller.register(self.channel, select.POLLIN)
        buffer = memoryview(bytearray(SPAWN_MESSAGE_BYTES))
        swept = 0.0
        while True:
            if poller.poll(self._patience_ms()):
                try:
                    size = self.channel.recv_into(buffer)
                except ConnectionError:
                    size = 0
                if not size:
                    return self._shut_down()
                self._obey(bytes(buffer[:size]))
            now = time.monotonic()
            self._end_overdue(now)
            if self.crowded or now - swept >= SWEEP_S:
                swept = now
                self.orphans.end_trees(SWEEP_S / 4)
            waiting, self.crowded = self.crowded, []
            for work, arguments, deadline in waiting:
                self._begin(work, arguments, deadline)

    def _obey(self, message):
        request = decode_request(message)
        if request.operation == KILL:
            with self.lock:
                self._kill(self.jobs.get(request.job_id), "killed")
            return
        if request.operation == REMOVE:
            work, arguments = remove_folder, (self.area_fd, request.folder)
        else:
            if self.landlock:
                self.landlock.refresh(time.monotonic())
            job = RunningJob(request.job_id, self.settings.job_timeout_s)
            with self.lock:
                self.jobs[request.job_id] = job
            work, arguments = self._run_job, (job, request)
        self._begin(work, arguments, time.monotonic() + START_RETRY_S)

    def _begin(self, work, arguments, deadline):
        """In a thread of its own; where the user has too many processes for one, once the main thread comes again."""
        try:
            _thread.start_new_thread(work, arguments)   # threading.Thread.start waits for the thread: 50 us more
        except RuntimeError as error:
            job = arguments[0] if work == self._run_job else None
            if time.monotonic() < deadline and not (job and job.reason):
                self.crowded.append((work, arguments, deadline))
                if job:
                    self._restart_clock(job)
            elif job:                                   # a folder not removed now goes at the end
                self._fail(job.job_id, errno.EAGAIN, str(error))

    def _restart_clock(self, job):
        """Of one that waits for room: its compiler has not had the time. Last of all again: deadlines are in order."""
        with self.lock:
            if not job.reason:
                job.deadline = time.monotonic() + self.settings.job_timeout_s
                self.jobs[job.job_id] = self.jobs.pop(job.job_id)

    def _kill(self, job, reason):
        """Under the lock, which reaping needs: so the pid is still the job's."""
        if job and not job.reason:
            job.reason = reason
            if job.pid:
                kill_group(job.pid)

    def _patience_ms(self):
        """How long the main thread may sleep; None: until the daemon speaks."""
        if not (self.jobs or self.crowded or self.orphans.pids()):
            return None
        patience_s = CROWDED_S if self.crowded else SWEEP_S
        with self.lock:                                 # a killed one may hang in the kernel for ever
            oldest = next((job for job in self.jobs.values() if not job.reason), None)
        if oldest:
            patience_s = min(patience_s, oldest.deadline - time.monotonic())
        return max(0, math.ceil(patience_s * 1000))

    def _end_overdue(self, now):
        with self.lock:
            for job in self.jobs.values():
                if now < job.deadline:
                    break
                self._kill(job, "timeout")

    # -- in the thread of a job
    def _run_job(self, job, request):
        texts = {}
        try:
            folder_fd = os.open(request.folder, O_FOLDER)
            try:
                if self.landlock:
                    self.landlock.restrict_thread(folder_fd, request.readable)
                if request.packed:
                    self._while_crowded(self._start_unpacking, job, request, folder_fd)
                    self._await_unpacked(job, request)
                open_texts(folder_fd, texts)
                self._while_crowded(self._start_compiler, job, request, folder_fd, texts)
            finally:
                os.close(folder_fd)
        except Exception as error:                      # whatever it is, the daemon must hear of its job
            keep_texts(request.folder, texts)
            return self._fail(job.job_id, getattr(error, "errno", None) or errno.EINVAL, str(error))
        self._send(SpawnResult(job.job_id, "started", job.pid))
        result = self._await_end(job)
        keep_texts(request.folder, texts)
        self._send(result)

    def _while_crowded(self, start, job, *arguments):
        """Again where the user has too many processes just now: what an ended job left dies within seconds."""
        deadline = time.monotonic() + START_RETRY_S
        while time.monotonic() < deadline:
            try:
                return start(job, *arguments)
            except BlockingIOError:
                self._restart_clock(job)
                time.sleep(CROWDED_S)
        return start(job, *arguments)

    def _start_unpacking(self, job, request, folder_fd):
        """In a process of its own, with the limits, rules and niceness of the job, which ends with it as a compiler
        would: 30 MB/s of Python must hold up neither the daemon's loop nor the other jobs, and what a stranger packed
        is unpacked where it can do no harm."""
        with self.lock:
            if job.reason:
                raise OSError(errno.ECANCELED, "killed before it started")
            resource.setrlimit(resource.RLIMIT_CPU, self.cpu_limit)
            job.pid = os.fork()
            if not job.pid:
                unpacking_process(folder_fd, request.packed, self.settings, self.nice)
            os.setpgid(job.pid, job.pid)                # whoever of the two comes first

    def _await_unpacked(self, job, request):
        """Raises BadSource; OSError where this host is to blame."""
        os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
        with self.lock:
            pid, job.pid = job.pid, 0
            status = os.waitpid(pid, 0)[1]
        if status and not job.reason:
            raise_unpacking(request.packed.partition(b":")[0].decode(), os.waitstatus_to_exitcode(status))

    def _start_compiler(self, job, request, folder_fd, texts):
        with self.lock:
            if job.reason:
                raise OSError(errno.ECANCELED, "killed before it started")
            # The working folder is the whole process's, so it is set under the lock. Not unshare(CLONE_FS) a thread:
            # posix_spawn holds the GIL in any case, and this is portable. stdin is the spawner's own, /dev/null.
            os.fchdir(folder_fd)
            # Inherited; the spawner itself ignores SIGXCPU. Each time, because the kernel raises a limit that was hit.
            resource.setrlimit(resource.RLIMIT_CPU, self.cpu_limit)
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            soft = request.address_space or hard
            resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
            job.started = time.monotonic()
            job.pid = os.posix_spawn(
                request.argv[0], request.argv, request.env, setpgroup=0, setsigmask=[],
                setsigdef=ignored_signals(), file_actions=[
                    (os.POSIX_SPAWN_DUP2, texts[name], number) for number, name in enumerate(TEXT_NAMES, 1)])
            if self.settings.nice > 0:                  # afterwards, so that the spawner stays quick to kill; the
                os.setpriority(os.PRIO_PGRP, job.pid, self.nice)    # group, as the driver may have forked by now

    def _await_end(self, job):
        if hasattr(os, "waitid"):                       # not on macOS
            os.waitid(os.P_PID, job.pid, os.WEXITED | os.WNOWAIT)
            ended = time.monotonic()
            with self.lock:                             # still a zombie, so its number cannot be anyone else's group
                del self.jobs[job.job_id]
                kill_group(job.pid)
                _, status, usage = os.wait4(job.pid, 0)
        else:
            _, status, usage = os.wait4(job.pid, 0)
            ended = time.monotonic()
            with self.lock:
                del self.jobs[job.job_id]
                kill_group(job.pid)
        self.orphans.end(ORPHAN_S)
        max_rss_kb = usage.ru_maxrss // 1024 if sys.platform == "darwin" else usage.ru_maxrss
        return SpawnResult(job.job_id, "ended", status, usage.ru_utime + usage.ru_stime, max_rss_kb,
                           ended - job.started, job.reason)

    # -- in any thread
    def _fail(self, job_id, number, text):
        with self.lock:
            self.jobs.pop(job_id, None)
        self._send(SpawnResult(job_id, "failed", number, text=text))

    def _send(self, result):
        try:
            self.channel.send(encode_result(result))    # blocks while the daemon is stopped, which harms nobody
        except OSError:
            pass                                        # the daemon is gone; the main thread hears of it too

    def _shut_down(self):
        deadline = time.monotonic() + SHUTDOWN_S
        while True:
            with self.lock:
                for job in self.jobs.values():
                    self._kill(job, "killed")
            self.orphans.end_trees(SHUTDOWN_S / 4)
            if not (self.jobs or self.orphans.pids()) or time.monotonic() > deadline:
                break
            time.sleep(0.002)
        try:
            empty_folder(self.area_fd)
            os.rmdir(self.area_path)
        except OSError:
            pass                                        # in a --tmpdir that the job user cannot write to, an empty
                                                        # folder stays until the daemon's stop() or next start


def remove_folder(area_fd, folder):
    """A job's, by path. As the job user, so whatever a job put there can do no harm."""
    try:
        name = os.path.basename(folder)
        fd = open_own_folder(name, area_fd)
        try:
            empty_folder(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=area_fd)
    except OSError as error:
        print("distcc_lm spawner: %r: %s" % (folder, error), file=sys.stderr, flush=True)


def count_tasks(uid):
    """Processes and threads of a uid, about as RLIMIT_NPROC counts them (not those that hide, as after a setuid); 0
    without /proc."""
    total = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            if name.isdigit() and os.stat("/proc/" + name).st_uid == uid:
                total += len(os.listdir("/proc/%s/task" % name))
        except OSError:
            continue
    return total


def inflate(data, write, most):
    """Like lzo_unpack(), for zlib."""
    engine, at, total, block = zlib.decompressobj(), 0, 0, b"."
    while not engine.eof and (block or at < len(data)):
        piece = engine.unconsumed_tail
        if not piece:
            piece, at = data[at:at + 65536], at + 65536
        block = engine.decompress(piece, LZO_BLOCK_BYTES)
        total += len(block)
        if total > most:
            raise TooLarge("zlib: more than %d bytes" % most)
        write(block)
    if not engine.eof:
        raise WireError("zlib: cut short")


def raise_unpacking(method, number):
    """What the end of an unpacking_process(), not 0, says."""
    if number in (errno.EBADMSG, errno.EFBIG):
        raise BadSource(number, "what came is %s" % (
            "no " + method if number == errno.EBADMSG else "too large unpacked"))
    raise OSError(max(number, 0) or errno.EIO, "%s: %s" % (
        method, os.strerror(number) if number > 0 else "signal %d" % -number))


def unpacking_process(folder_fd, packed, settings, nice):
    """The child of a fork in a thread of the spawner: no lock is taken and nothing imported here. Never returns: its
    exit status is 0 or an errno."""
    code = errno.EBADMSG
    try:
        os.setpgid(0, 0)
        if settings.nice > 0:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        method, _, name = packed.partition(b":")
        source = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                         dir_fd=folder_fd)
        packed_fd = os.open(PACKED_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
        with mmap.mmap(packed_fd, 0, prot=mmap.PROT_READ) as data:
            unpack = inflate if method == b"zlib" else lzo_unpack
            unpack(data, lambda block: write_whole(source, block), settings.max_file_bytes)
        os.unlink(PACKED_NAME, dir_fd=folder_fd)
        code = 0
    except TooLarge:
        code = errno.EFBIG
    except MemoryError:
        code = errno.ENOMEM
    except OSError as error:
        code = error.errno
    finally:
        os._exit(code)


def write_whole(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def limit_process(settings, account):
    """The spawner's own limits, which compilers inherit. Set on a pid afterwards (prlimit) they came too late on a
    loaded box, where the driver may have forked the real compiler by then. For the CPU's see _start_compiler."""
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, settings.max_file_bytes)]
    if settings.address_space_bytes:
        limits.append((resource.RLIMIT_AS, max(settings.address_space_bytes, SPAWNER_ADDRESS_SPACE_BYTES)))
        try:
            libc().mallopt(-8, 1)                       # M_ARENA_MAX: otherwise 64 MB of address space for each thread
        except (ImportError, OSError, AttributeError):
            pass
    if account.dropped:         # only then: of a person's uid the desktop counts too, and is not ours to count
        limits.append((resource.RLIMIT_NPROC, count_tasks(account.uid) + NPROC_HEADROOM))
    for limit, value in limits:
        ceiling = resource.getrlimit(limit)[1]
        if ceiling != resource.RLIM_INFINITY:
            value = min(value, ceiling)
        resource.setrlimit(limit, (value, value))


def become_spawner(channel, settings, account):
    """What must be done between fork and the first job, in this order: what needs root comes before the drop."""
    os.setsid()                                         # out of the terminal's group: ^C is the daemon's to judge
    signal.set_wakeup_fd(-1)
    for number in ignored_signals():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)       # ignored it would reap by itself
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)     # of fork() beside threads: unpacking_process() says why not
    gc.freeze()                                         # the daemon's garbage must not close numbers that are ours now
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(3, channel.fileno())                  # pid-file lock, log, socket of systemd: the daemon's own
    os.closerange(channel.fileno() + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536))
    os.chdir("/")
    os.umask(0o077)
    _thread.stack_size(THREAD_STACK_BYTES)
    if settings.nice < 0:
        os.nice(settings.nice)
    limit_process(settings, account)
    if account.dropped:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        try:
            os.setuid(0)
        except PermissionError:
            pass
        else:
            raise ContainmentError("could not give up root")
    set_process_flag(PR_SET_NO_NEW_PRIVS, 1)
    set_process_flag(PR_SET_NAME, b"lm-spawner")


def spawner_process(channel, area_path, settings, account, containment, abi):
    """The child of the fork: never returns."""
    code = 1
    try:
        try:
            become_spawner(channel, settings, account)
            server = SpawnServer(channel, area_path, settings)
            if containment == "landlock":
                try:
                    server.enter_landlock(abi)
                except OSError as error:
                    if settings.contain == "require":
                        raise ContainmentError("--contain require: %s" % error) from None
                    containment = choose_containment(settings.contain, 0, account.dropped, account.name)[0]
            channel.send(READY + containment.encode())
        except Exception as error:                      # the one message is the daemon's only news of this process
            channel.send(str(error).encode(errors="replace")[:RESULT_TEXT_BYTES] or b"failed")
            return
        server.run()
        code = 0
    except BaseException as error:
        print("distcc_lm spawner: %r" % error, file=sys.stderr, flush=True)
    finally:
        os._exit(code)                                  # nothing of the daemon's: no atexit, no buffers


# ------------------------------------------------------------------------------------------- the spawner, to the daemon
class Spawner:
    """Start it before any socket, thread or child process exists, and after --detach. results() when fileno() is
    readable, flush() when wants_write and it is writable. The daemon must not wait for children that it did not start
    itself (waitpid(-1)): kill_known_groups() relies on them."""
    __slots__ = ("pid", "containment", "may_clang", "may_directives_only", "landlock_abi", "area", "known",
                 "message_limit", "_channel", "_unsent", "_gone", "_reaped")

    def __init__(self):
        self.pid = self.landlock_abi = self.message_limit = 0
        self.containment, self.may_clang, self.may_directives_only = "none", False, False
        self.area = self._channel = None
        self.known, self._unsent, self._gone, self._reaped = {}, [], False, False

    @classmethod
    def start(cls, settings):
        """ContainmentError with one line for the admin."""
        account = job_account(settings.user, settings.contain)
        abi = landlock_abi()
        containment = choose_containment(settings.contain, abi, account.dropped, account.name)[0]
        if settings.nice < 0 and os.geteuid() != 0:
            raise ContainmentError("--nice %d: only root can raise priority" % settings.nice)
        self = cls()
        try:
            self.area = JobArea(settings.tmpdir, account)
        except OSError as error:
            raise ContainmentError("--tmpdir %s: %s" % (settings.tmpdir, error.strerror)) from None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except (OSError, AttributeError):
            self.area.remove()
            raise ContainmentError("no SOCK_SEQPACKET on this system (macOS): it can send jobs, not serve") from None
        self.message_limit = raise_send_buffer(ours)
        self.pid = os.fork()
        if not self.pid:
            ours.close()
            spawner_process(theirs, self.area.path, settings, account, containment, abi)
        theirs.close()
        set_process_flag(PR_SET_CHILD_SUBREAPER, 1)     # should the spawner die, its jobs become children of the daemon
        self._channel = ours
        ours.settimeout(SPAWN_START_S)
        try:
            answer = ours.recv(4096)
        except OSError as error:
            answer = str(error).encode()
        if not answer.startswith(READY):
            self.stop()
            raise ContainmentError(answer.decode(errors="replace") or "the spawner ended while starting")
        ours.setblocking(False)
        self.containment = answer[len(READY):].decode()
        self.landlock_abi = abi if self.containment == "landlock" else 0
        self.may_clang = self.may_directives_only = self.containment == "landlock" or settings.contain == "off"
        return self

    def fileno(self):
        return self._channel.fileno()

    @property
    def wants_write(self):
        return bool(self._unsent)

    def spawn(self, job_id, argv, folder, env, readable=(), packed=b"", address_space=0):
        """argv[0] is the path to run. 'started' or 'failed' follows, and after 'started' an 'ended', always. `packed`:
        as in SpawnRequest; EBADMSG where it cannot be unpacked.
        RequestTooLarge, ValueError (NUL in a string): this job cannot be run here."""
        message = encode_request(SpawnRequest(SPAWN, job_id, folder, argv, env, readable, packed, address_space))
        if len(message) > self.message_limit:
            raise RequestTooLarge("arguments and environment take %d bytes, the limit is %d (net.core.wmem_max)"
                                  % (len(message), self.message_limit))
        self._request(message)

    def kill(self, job_id):
        """Its whole group and what left the group, whether or not 'started' has come; unknown ids are ignored. 'ended'
        follows, or 'failed' with ECANCELED where it had not started."""
        self._request(encode_request(SpawnRequest(KILL, job_id)))

    def remove_folder(self, path, dir_fd):
        """Closes dir_fd. Here when it is a matter of a few files, otherwise in the spawner."""
        if not self.area.remove_folder(path, dir_fd):
            self._request(encode_request(SpawnRequest(REMOVE, 0, path)))

    def _request(self, message):
        self._unsent.append(message)
        self.flush()

    def flush(self):
        """Never blocks: what a stopped spawner does not take waits here, in order."""
        while self._unsent and not self._gone:
            try:
                self._channel.send(self._unsent[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                    self._gone = True                   # results() says so, after what is still to be read
                return
            del self._unsent[0]

    def results(self):
        """A list of SpawnResult, maybe empty. SpawnerGone when nothing more can come."""
        self.flush()
        found = []
        while True:
            try:
                message = self._channel.recv(RESULT.size + RESULT_TEXT_BYTES)
            except (BlockingIOError, InterruptedError):
                return found
            except OSError:
                message = b""
            if not message:
                self._gone = True
                if found:
                    return found                        # the next call raises
                raise SpawnerGone("the spawner (pid %d) died" % self.pid)
            result = decode_result(message)
            if result.kind == "started":
                self.known[result.job_id] = result.pid
            else:
                self.known.pop(result.job_id, None)
            found.append(result)

    def kill_known_groups(self, own_children=None):
        """After SpawnerGone. The spawner's session holds jobs only, so its number tells a job from a reused pid; and as
        subreaper the daemon has become the parent of what is left. own_children: pids that the daemon itself started;
        given these, all its other children are killed, also those that left the session by setsid."""
        self._reap(0)
        deadline = time.monotonic() + ORPHAN_S
        while True:
            children = children_of_process()
            pids = {pid for pid in [*self.known.values(), *children] if self._in_session(pid)}
            if own_children is not None:
                pids.update(set(children).difference(own_children))
            if not pids or time.monotonic() > deadline:
                break
            for pid in pids:
                if pid in self.known.values():
                    kill_group(pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, os.WNOHANG)
                except OSError:
                    pass                                # not our child where there is no subreaper; dead all the same
            time.sleep(0.001)
        self.known.clear()

    def _in_session(self, pid):
        try:
            return os.getsid(pid) == self.pid
        except OSError:
            return False

    def _reap(self, patience_s):
        deadline = time.monotonic() + patience_s
        while not self._reaped:
            try:
                self._reaped = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:
                self._reaped = True
            if self._reaped or time.monotonic() >= deadline:
                break
            time.sleep(0.002)
        return self._reaped

    def stop(self):
        """Ends every job, removes the folders, reaps the spawner. Blocks up to SPAWN_STOP_S, usually milliseconds."""
        self._channel.close()
        if not self._reap(SPAWN_STOP_S):
            os.kill(self.pid, signal.SIGKILL)
            self._reap(SPAWN_STOP_S)
        self.kill_known_groups()
        self.area.remove()


def raise_send_buffer(channel):
    """The largest message that the channel will take. FORCE needs root, and goes beyond net.core.wmem_max."""
    for option in (getattr(socket, "SO_SNDBUFFORCE", 32), socket.SO_SNDBUF):
        try:
            channel.setsockopt(socket.SOL_SOCKET, option, SPAWN_MESSAGE_BYTES)
            break
        except OSError:
            continue
    # Half: the kernel doubles the value for its own book-keeping, and counts that against it
    return min(channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2, SPAWN_MESSAGE_BYTES)


def children_of_process():
    """Pids of the daemon's children, started or inherited; empty without /proc."""
    try:
        with open("/proc/self/task/%d/children" % os.getpid(), "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


# ---- compilers that this host offers

DRIVER_NAMES = ("gcc", "g++", "cc", "c++", "clang", "clang++")
SERVER_PATH = b"/usr/local/bin:/usr/bin:/bin"
OBJECT_NAME = b"object.o"


def driver_kind(name):
    """The driver in a program's name, target and version marks apart: x86_64-linux-gnu-g++-12 is g++. None: no
    driver."""
    stem = name.rstrip("0123456789.")
    stem = stem[:-1] if stem != name and stem.endswith("-") else name
    for driver in sorted(DRIVER_NAMES, key=len, reverse=True):
        if stem == driver or stem.endswith("-" + driver):
            return driver
    return None


def run_for_text(argv):
    """What a program prints on both streams, under LC_ALL=C; b"" where it cannot be run."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=20, env={"LC_ALL": "C", "PATH": SERVER_PATH.decode()}, check=False)
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout if done.returncode == 0 else b""


class Compiler:
    """One program that this host offers: path, family (gcc, clang), whether it is a C++ driver, identity, what a gcc
    calls its assembler, and folders that its jobs must read beside those of every job."""
    __slots__ = ("path", "family", "cxx", "identity", "assembler", "stamp", "readable")

    def __init__(self, path, family, cxx, identity, assembler, stamp, readable=()):
        self.path, self.family, self.cxx, self.identity, self.stamp = path, family, cxx, identity, stamp
        self.assembler, self.readable = assembler, readable

    def unchanged(self):
        """Whether its path, which may be a link, and its assembler's still lead to the same programs."""
        try:
            return tool_stamp(self.path, self.assembler) == self.stamp
        except OSError:
            return False


PREFIX_FOLDERS = ("bin", "lib", "lib32", "lib64", "libexec", "share/locale")


def own_folders(driver, assembler, said):
    """Folders that a compiler reads, where it is installed outside of what TOOLCHAIN_FOLDERS cover. driver, assembler:
    real paths; said: by -print-search-dirs. Of a prefix not all: not /usr/local/etc."""
    prefixes = [os.path.dirname(os.path.dirname(path)) for path in (driver, assembler)]
    head, _, install = os.fsdecode(said).partition("\n")[0].partition("install: ")
    names = PREFIX_FOLDERS
    if install and not head:                            # of gcc: PREFIX/lib/gcc/TARGET/VERSION
        install = os.path.normpath(install)
        prefixes.append(os.path.dirname(install.partition("/gcc/")[0]))
        names += os.path.basename(os.path.dirname(install)),        # PREFIX/TARGET/bin/as
    return [os.fsencode(os.path.join(prefix, name)) for prefix in dict.fromkeys(prefixes) for name in names
            if prefix not in ("", "/", "/usr") and os.path.isdir(os.path.join(prefix, name))]


def file_stamp(path):
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def assembler_path(said):
    """The program behind what `gcc -print-prog-name=as` says: a word without a folder is looked for on PATH."""
    return shutil.which(said, path=SERVER_PATH.decode()) or "" if said else ""


def tool_stamp(compiler, assembler):
    """Of both programs: binutils are upgraded apart from gcc. OSError where one is not there."""
    path = assembler_path(assembler)
    return file_stamp(compiler), file_stamp(path) if path else None


class Offer:
    """The compilers of --compilers, or else the drivers on the daemon's PATH. Names are for distcc clients,
    identities for our own. Scripts and links to this program are left out; what does not answer -v is, too, until it
    does: a package is being upgraded, a file system mounted late."""

    def __init__(self, folders, may_clang, log):
        self.folders, self.may_clang, self.log = folders, may_clang, log
        self.by_name, self.by_identity = {}, {}
        self.unread = set()             # folders that cannot be read now
        self.by_program = {}            # (real path, whether called as a C++ driver): Compiler
        self.mute = {}                  # the same, not answering -v: (path, stamp, how often, when to ask again)
        self.take(self.look())

    def look(self):
        """{name: Compiler}, as it is now. It runs programs and may take seconds: take() is for the loop."""
        by_name = {}
        for folder in self.folders or [folder for folder in os.get_exec_path() if folder]:
            try:
                names = sorted(os.listdir(folder))
            except OSError as error:
                if self.folders and folder not in self.unread:
                    self.log("warning", "--compilers %s: %s" % (folder, error.strerror))
                self.unread.add(folder)
                continue
            self.unread.discard(folder)
            for name in names:
                if driver_kind(name) and name not in by_name:
                    compiler = self.examine(os.path.join(folder, name))
                    if compiler:
                        by_name[name] = compiler
        return by_name

    def take(self, by_name):
        """These are offered from here on. Whether other identities are than before."""
        before, identities = self.by_name, set(self.by_identity)
        for name in sorted(before.keys() - by_name.keys()):
            silent = before[name].path in {path for path, *_ in self.mute.values()}
            self.log("warning", "the compiler %s is offered no longer: %s %s" % (
                name, before[name].path, "does not answer -v" if silent else "is gone"))
        for name in sorted(by_name.keys() - before.keys()) if before else ():
            self.log("info", "the compiler %s is offered now: %s" % (name, by_name[name].path))
        self.by_name, self.by_identity = by_name, {}
        for name in sorted(by_name, key=len):
            self.by_identity.setdefault(by_name[name].identity, by_name[name])
        offered = set(by_name.values())
        self.by_program = {key: compiler for key, compiler in self.by_program.items() if compiler in offered}
        return set(self.by_identity) != identities

    def find(self, identity=None, name=None):
        """The Compiler of this identity, else of this name; None if there is none."""
        return self.by_identity.get(identity) if identity else self.by_name.get(name)

    def examine(self, path):
        """Compiler, or None where it is none that may be offered. One -v for each program, whatever its links."""
        real = os.path.realpath(path)
        driver = driver_kind(os.path.basename(real))
        try:
            stamp = file_stamp(real)
            with open(real, "rb") as file:
                script = file.read(2) == b"#!"
        except OSError:
            return None
        if not driver or script or not os.access(real, os.X_OK):
            return None
        family = "clang" if "clang" in driver else "gcc"
        if family == "clang" and not self.may_clang:
            return None
        cxx = driver.endswith("++")
        if family == "clang" and not cxx:           # clang++ is a link to clang: only the name it is called by tells
            cxx = (driver_kind(os.path.basename(path)) or "").endswith("++")
        known = self.by_program.get((real, cxx))
        if known and known.stamp[0] == stamp and known.unchanged():
            return known
        _, mute, tries, again = self.mute.get((real, cxx), (path, None, 0, 0.0))
        now = time.monotonic()
        if mute == stamp and now < again:
            return None
        compiler = self.ask(path, family, cxx)
        if compiler:
            self.mute.pop((real, cxx), None)
            self.by_program[real, cxx] = compiler
        else:
            tries = tries + 1 if mute == stamp else 1
            pause_s = min(IDENTITY_CHECK_S * 2 ** min(tries - 1, 20), COMPILER_RETRY_S)
            self.mute[real, cxx] = path, stamp, tries, now + pause_s
        return compiler

    @staticmethod
    def ask(path, family, cxx):
        """What the program says of itself; None where it does not. The stamps are taken first: what is exchanged
        meanwhile is asked again."""
        assembler = text = content = b""
        if family == "gcc":                             # which looks for an `as` without a folder as we do
            assembler = run_for_text([path, "-print-prog-name=as"]).strip()
        program, real = assembler_path(os.fsdecode(assembler)), os.path.realpath(path)
        try:
            stamp = tool_stamp(path, os.fsdecode(assembler))
            if program:
                with open(program, "rb") as file:
                    content = file.read()
        except OSError:
            return None
        said, folders = run_for_text([path, *VERSION_WORDS]), run_for_text([path, "-print-search-dirs"])
        text = run_for_text([program, "--version"]) if program else b""
        if not said or not folders or family == "gcc" and not (assembler and text) or is_wrapper(
                said, os.fsencode(path), os.fsencode(real)):
            return None                                 # also of a mishap: half an identity would be another's
        readable = own_folders(real, os.path.realpath(program), folders)
        return Compiler(path, family, cxx, identity_of(said, text, cxx, content), os.fsdecode(assembler), stamp,
                        readable)


# ---- the farm's key

def read_secret(path):
    """The key in a file that nobody else may read. Raises StartError."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            key = file.read(1 << 16).strip()
    except OSError as error:
        raise StartError("--secret-file %s: %s" % (path, error.strerror)) from None
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise StartError("--secret-file %s: must be a file of this user or root" % path)
    if found.st_mode & 0o077:
        raise StartError("--secret-file %s: open to others (mode %04o): chmod 600 it" % (path, found.st_mode & 0o7777))
    if len(key) < SECRET_LEAST_BYTES:
        raise StartError("--secret-file %s: a key of %d bytes, at least %d are needed" % (
            path, len(key), SECRET_LEAST_BYTES))
    return key


class Secret:
    """MACs with the farm's key, and what is new, told without a clock. Every daemon has a challenge: random bytes that
    are chosen at its start and again whenever it forgets whom it heard. Who echoes it in a report, or names it in a
    request, lives now; from there on numbers only count up."""

    def __init__(self, key, counter=0):
        self.key, self.counter = key, counter       # the last request's number; servers know the highest they saw
        self.forget()

    def forget(self):
        self.challenge = os.urandom(CHALLENGE_BYTES)
        self.former = collections.deque(maxlen=FORMER_CHALLENGES)       # good for requests, whose numbers are kept
        self.reports = {}               # instance that echoed the challenge: sequence of its last report
        self.asked = {}                 # instance whose requests named it: (highest counter, bits for those below)

    def mac(self, kind, data):
        """`kind` keeps one message from being taken for another."""
        return hmac.digest(self.key, kind + b"\0" + data, "sha256")[:MAC_BYTES]

    def right(self, kind, data, mac):
        return hmac.compare_digest(self.mac(kind, data), mac)

    def seal(self, kind, before=b""):
        """What encode(seal) takes."""
        return lambda data: self.mac(kind, before + data)

    def report_is_new(self, load):
        """True; False: seen before, or overtaken; None: of an instance that has yet to echo our challenge."""
        last = self.reports.get(load.instance)
        if last is None:
            if self.challenge not in load.echoes:
                return None
            if len(self.reports) >= REPORTERS_MOST:
                self.forget()
                return None
        elif load.sequence <= last:
            return False
        self.reports[load.instance] = load.sequence
        return True

    def supersede(self, instance):
        """Another instance has taken its place. What still comes of it was recorded, most likely: it must echo a
        challenge that no recording has. It can: it may have moved, or a packet was passed on from its address."""
        if self.reports.pop(instance, None) is not None:
            self.former.append(self.challenge)
            self.challenge = os.urandom(CHALLENGE_BYTES)

    def refusal(self, request, address):
        """Why a request that came to this address (bytes) of ours is refused: the reason's name, or None."""
        if not self.right(b"request", request.covered, request.mac):
            return "bad-mac"
        if request.dialled != address:
            return "relayed"
        if request.challenge != self.challenge and request.challenge not in self.former:
            return "restarted"
        if request.instance not in self.asked and len(self.asked) >= REPORTERS_MOST:
            self.forget()
            return "restarted"
        highest, seen = self.asked.get(request.instance, (0, 0))
        ahead = request.counter - highest
        if ahead > 0:
            seen = (seen << min(ahead, REPLAY_WINDOW) | 1) & ((1 << REPLAY_WINDOW) - 1)
        elif -ahead >= REPLAY_WINDOW or seen >> -ahead & 1:
            return "replayed"
        else:
            seen |= 1 << -ahead
        self.asked[request.instance] = max(highest, request.counter), seen
        return None


class Trust:
    """Who may send what. Serving is not using: --allow serves, --peer, --use and --hosts are sent to and believed. With
    a secret reports are believed from, and jobs sent to, whoever has it, and only they are served, out of --allow."""

    def __init__(self, config):
        self.config, self.allow, self.use = config, config.allow, config.use    # [network]; [(network, port)]
        self.standings = {}                         # address: standing(); options do not change
        self.peers = {}                             # Endpoint: key of the Host
        self.secret = None
        self.serves_plain = True                    # distcc clients
        self.wrong_keys = {}                        # address with another key, or none: heard at

    def load_secret(self):
        """At the start and on SIGHUP. Raises StartError."""
        if self.config.secret_file:
            key = read_secret(self.config.secret_file)
            if self.secret is None or self.secret.key != key:
                self.secret = Secret(key, self.secret.counter if self.secret else 0)
            self.serves_plain = self.config.plain

    def standing(self, address):
        """(whether --allow serves this address; the port to send jobs to, where --use covers it, else None).
        Remembered: ipaddress takes a third of the time of a report."""
        found = self.standings.get(address)
        if found is None:
            ip = ipaddress.ip_address(address)
            found = (any(ip in network for network in self.allow),
                     next((port for network, port in self.use if ip in network), None))
            if len(self.standings) >= REPORTERS_MOST:
                self.standings.clear()
            self.standings[address] = found
        return found

    def serves(self, address):
        return self.standing(address)[0]

    def wrong_key(self, address, now):
        """Note it. Whether this is news: of a hundred addresses, as they may be spoofed."""
        self.wrong_keys = {a: at for a, at in self.wrong_keys.items() if now - at < LOG_REPEAT_S}
        noted = address in self.wrong_keys
        if noted or len(self.wrong_keys) < 100:
            self.wrong_keys[address] = now
        return not noted and address in self.wrong_keys


def dialled_address(name):
    """What getsockname() or getpeername() gave, as both ends of a connection write it."""
    return str(Endpoint((plain_address(name[0]), name[1]))).encode()


# ---- connections

def unpacked_size(folder_fd, connection):
    """Bytes of a job's source, as the compiler read it; as it came where that cannot be told any more."""
    try:
        name = connection.packed.partition(b":")[2]
        return os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_size if name else connection.size
    except OSError:
        return connection.size


class Counters:
    """What `status` tells of the serving side."""
    __slots__ = ("served", "refused", "bad_requests")

    def __init__(self):
        self.served = self.refused = self.bad_requests = 0


class JobConnection:
    """One TCP connection of a submitter, from accept to close. It is its own ticket for a slot.

        opening -> parked -> reserved -> body -> running -> replying -> closed      one of our daemons, then its client
        opening -> body -> queued -> running -> replying -> closed                  a plain distcc client
        any -> refused (the LMNO goes out, input is discarded for a second) -> closed
    """
    __slots__ = ("server", "sock", "peer", "state", "deadline", "decoder", "slot_request", "job_id", "compiler", "argv",
                 "folder", "folder_fd", "source_fd", "left", "outgoing", "object_fd", "object_left", "object_at",
                 "queued_at", "started_at", "area_at_start", "what", "times", "discarded", "size", "begun",
                 "got", "version", "packed", "ours",
                 "compression")

    def __init__(self, server, sock, peer, now):
        self.server, self.sock, self.peer = server, sock, peer
        self.state, self.deadline = "opening", now + OPENING_S
        self.decoder = Decoder(decode_opening(server.trust.serves_plain))
        self.slot_request = self.compiler = self.folder = self.times = None
        self.job_id = self.folder_fd = self.source_fd = self.object_fd = -1
        self.argv, self.left, self.outgoing, self.object_left, self.object_at = [], 0, bytearray(), 0, 0
        self.queued_at = self.started_at = self.area_at_start = 0.0
        self.what, self.discarded = "", 0
        self.size = 0                                   # of the source, in bytes
        self.begun, self.got = 0.0, 0                   # when the first byte of the job came, and how many by now
        self.version, self.packed = 1, b""              # of distcc's protocol; the file to unpack the source to
        self.ours, self.compression = False, NOT_COMPRESSED     # understands LMNO; agreed on with LMOK

    def fileno(self):
        return self.sock.fileno()

    def key(self):
        """Whose turn it is at this server: (address, submitter, uid)."""
        request = self.slot_request
        if request:
            return self.peer, request.instance, request.uid
        return self.peer, self.peer.encode(), 0

    def unadmitted(self):
        """Whether it has not got as far as the queue."""
        return self.state in ("opening", "refused") or self.state == "body" and not self.slot_request

    def replies(self):
        return self.state == "replying"

    def idle_since(self):
        """About when something last came or went."""
        return self.deadline - (OPENING_S if self.state == "opening" else PROGRESS_S)

    def memory_mb(self):
        """What its compiler may need, as the submitter has learnt, or as we have."""
        return self.slot_request.memory_mb if self.slot_request else self.server.admission.usual_mb()

    def on_event(self, events):
        try:
            if events & selectors.EVENT_READ:
                self.read()
            if events & selectors.EVENT_WRITE and self.state != "closed":
                self.write()
        except WireError as error:
            self.server.counters.bad_requests += 1
            self.ours = self.ours or isinstance(error, OtherVersion)
            self.refuse("version" if isinstance(error, OtherVersion) else "protocol", str(error))
        except OSError as error:
            if errno.errorcode.get(error.errno) in NO_ROOM:
                self.refuse("disk", error.strerror)
            else:
                self.end("cancelled", error.strerror)

    # -- reading

    def read(self):
        try:
            data = self.sock.recv(262144)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.end("cancelled" if self.state != "refused" else "", "the client closed the connection")
        elif self.state in ("opening", "reserved"):
            self.read_header(data)
        elif self.state == "body":
            self.read_body(data)
        else:                                           # nothing is due now: tolerated, as distccd does, within reason
            self.discarded += len(data)
            if self.discarded > 1 << 16 and self.state != "refused":
                raise WireError("data without end after the request")

    def read_header(self, data):
        if self.state == "reserved":                    # the first byte in time: from here on it must only go on
            self.progress_in(len(data))
        if not self.decoder.feed(data):
            return
        message, rest = self.decoder.result, self.decoder.rest()
        if isinstance(message, SlotRequest):
            self.slot_request, self.ours = message, True
            self.server.ask_slot(self)
            self.decoder = Decoder(decode_job())
            if rest:
                raise WireError("data before the slot was granted")
            return
        self.server.begin(self, message)
        if self.state == "body":
            self.read_body(rest)

    def read_body(self, data):
        if len(data) > self.left:
            data = data[:self.left]                     # what follows the source is dropped, as above
        view = memoryview(data)
        while view:
            view = view[os.write(self.source_fd, view):]
        self.left -= len(data)
        self.progress_in(len(data))
        if not self.left:
            os.close(self.source_fd)
            self.source_fd = -1
            self.server.complete(self)

    def progress_in(self, count):
        """Bytes of the job have come: time for more, but not for one a second."""
        self.begun = self.begun or self.server.loop.now()
        self.got += count
        self.deadline = self.begun + min(PROGRESS_S + self.got / SLOWEST_BYTES_S, self.server.sending_s)

    # -- writing

    def send(self, data):
        self.outgoing += data
        self.write()

    def write(self):
        """As much as the socket takes; the object goes from its file by sendfile."""
        try:
            while self.outgoing:
                sent = self.sock.send(self.outgoing)
                del self.outgoing[:sent]
                self.progress()
            while self.object_left:
                sent = os.sendfile(self.fileno(), self.object_fd, self.object_at, min(self.object_left, 1 << 20))
                if not sent:
                    raise OSError(errno.EIO, "the object shrank while it was sent")
                self.object_at += sent
                self.object_left -= sent
                self.progress()
        except (BlockingIOError, InterruptedError):
            self.server.loop.change(self, selectors.EVENT_READ | selectors.EVENT_WRITE)
            return
        self.server.loop.change(self, selectors.EVENT_READ)
        if self.object_fd >= 0:
            os.close(self.object_fd)
            self.object_fd = -1
            self.outgoing += self.tail()
            return self.write()
        if self.state == "replying":
            self.end("", "")

    def progress(self):
        if self.state == "replying":
            self.deadline = self.server.loop.now() + PROGRESS_S

    def reply(self, status, stderr, stdout, object_fd, size, times):
        self.server.gate.make_room(self.peer, JobConnection.replies, WAITING_PER_ADDRESS)
        self.state, self.times = "replying", times
        self.object_fd, self.object_left, self.object_at = object_fd, size, 0
        data = encode_reply(status, stderr, stdout, size, self.version)
        if object_fd < 0:
            data += self.tail()
        self.progress()
        self.send(data)

    def tail(self):
        """What follows the object."""
        end = LZO_END if self.version == 2 and self.object_at else b""
        return end + encode_times(self.times) if self.slot_request else end

    # -- ends

    def refuse(self, name, text=""):
        """Say no and end: LMNO to our own, a closed connection and a log line to a distcc client."""
        if self.state in ("refused", "closed"):
            return self.end("", "")
        self.server.counters.refused += 1
        self.server.loop.log("info", "%s refused: %s %s" % (self.peer, reason_text(name), text))
        self.server.drop(self, 0.0)
        if not self.ours or self.state == "replying":
            return self.end("", "")
        self.state, self.deadline = "refused", self.server.loop.now() + REFUSAL_LINGER_S
        try:
            self.send(encode_refused(name, text))
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.end("", "")
        return None

    def end(self, outcome, text):
        """Close, whatever state it is in; a compiler that runs for it is killed."""
        if self.state == "closed":
            return
        if outcome == "cancelled" and self.state in ("body", "queued", "running", "replying"):
            self.server.loop.log("debug", "%s cancelled in state %s: %s" % (self.peer, self.state, text))
        self.server.drop(self, 0.0)
        self.state = "closed"
        for fd in (self.source_fd, self.object_fd):
            if fd >= 0:
                os.close(fd)
        self.source_fd = self.object_fd = -1
        self.server.connections.discard(self)
        self.server.loop.unwatch(self)
        self.sock.close()

    def abandon(self):
        """After a bug in dealing with it."""
        self.end("cancelled", "")


def read_text(folder_fd, name, uid):
    """What the compiler wrote on a stream, cut where it is absurdly long."""
    try:
        fd, size = open_result(folder_fd, name, uid)
    except (OSError, UnsafeResult):
        return b""
    try:
        return os.read(fd, min(size, MAX_MESSAGE_BYTES))
    finally:
        os.close(fd)


class Gate:
    """Who gets in: connections from accept to the admission, and their deadlines."""

    def __init__(self, loop, trust):
        self.loop, self.trust, self.counters, self.connections = loop, trust, Counters(), set()

    def accept(self, listener, server):
        for _ in range(64):                         # not for ever: others have events, too
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            peer = plain_address(address[0])
            sock.setblocking(False)
            if not self.trust.serves(peer):
                self.turn_away(sock, peer)
                continue
            # LMOK, LMWT and TIME are small and waited for. A reply's header and object follow one another at once, as
            # do a request's and the source: corking would save a segment a job and cost two calls. No SO_SNDBUF or
            # SO_RCVBUF: a fixed size ends the kernel's own tuning, which fills a gigabit. No keep-alive: each phase has
            # its deadline. No TCP_DEFER_ACCEPT: who connects and says nothing is counted, and goes first of many.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = JobConnection(server, sock, peer, self.loop.now())
            self.make_room(peer, JobConnection.unadmitted, UNADMITTED_PER_ADDRESS)
            self.connections.add(connection)
            self.loop.watch(connection, selectors.EVENT_READ, connection.on_event)

    def turn_away(self, sock, peer):
        """A stranger is told so, before a byte of his is read, and gets nothing else of ours: no state, no time."""
        self.loop.log_seldom("warning", peer, "%s is not allowed to send jobs here (--allow)" % peer)
        self.counters.refused += 1
        with sock:
            try:
                sock.send(encode_refused("not-allowed"))
            except OSError:
                pass                                # gone already

    def make_room(self, peer, which, most):
        """Too many that hold no slot: the one that has been idle longest goes."""
        crowd = [c for c in self.connections if which(c)]
        mine = [c for c in crowd if c.peer == peer]
        self.end_idlest(mine if len(mine) >= most else crowd if len(crowd) >= UNADMITTED_TOTAL else [])

    @staticmethod
    def end_idlest(crowd):
        if crowd:
            min(crowd, key=JobConnection.idle_since).end("cancelled", "too many connections")

    def shed(self):
        """Descriptors are needed."""
        self.end_idlest([c for c in self.connections if c.unadmitted()] or
                        [c for c in self.connections if c.state in ("queued", "replying")])

    def waiting(self, peer):
        """How many of an address are in line for a slot."""
        return sum(c.peer == peer and c.state in ("parked", "queued") for c in self.connections)

    def kept_bytes(self, peer):
        """Of an address's sources that came, or may come, without a slot."""
        return sum(c.size for c in self.connections
                   if c.peer == peer and c.state in ("body", "queued") and not c.slot_request)

    def sweep(self, now):
        """Deadlines, looked at twice a second."""
        for connection in list(self.connections):
            if now < connection.deadline:
                continue
            if connection.state == "reserved":
                connection.refuse("lease-over")
            elif connection.state in ("opening", "body", "replying", "refused"):
                connection.end("cancelled", "no progress")

    def authentic(self, connection):
        """Whether a request has the farm's key and is new; else it is refused here."""
        request, secret = connection.slot_request, self.trust.secret
        refusal = secret.refusal(request, dialled_address(connection.sock.getsockname()))
        if refusal == "restarted":                  # with the new challenge, and proof that it is ours
            mac = secret.mac(b"restarted", request.mac + secret.challenge)
            connection.refuse(refusal, "%s %s" % (secret.challenge.hex(), mac.hex()))
        elif refusal:
            if refusal == "bad-mac":
                self.trust.wrong_key(connection.peer, self.loop.now())
            self.loop.log_seldom("warning", connection.peer, "a request of %s: %s" % (
                connection.peer, reason_text(refusal)))
            connection.refuse(refusal)
        return refusal is None


SPAWN_REFUSALS = {"EBADMSG": "protocol", "EFBIG": "too-large", "ENOSPC": "disk", "EDQUOT": "disk",
                  "ENOENT": "compiler-unknown", "EACCES": "compiler-unknown", "ENOEXEC": "compiler-unknown"}


class JobServer:
    """Admits, starts compilers through the spawner, and answers. Policy is Admission's and serve_args()'s."""

    def __init__(self, loop, admission, spawner, offer, trust, audience, max_job_bytes, sending_s):
        self.loop, self.admission, self.spawner, self.offer, self.audience = loop, admission, spawner, offer, audience
        self.gate, self.trust, self.max_job_bytes = Gate(loop, trust), trust, max_job_bytes
        self.counters, self.connections = self.gate.counters, self.gate.connections
        self.sending_s = sending_s                      # the longest that a source may take to come
        self.running, self.leaving = {}, {}             # running: {job id: JobConnection}
        self.granting = False                           # within grant_next()
        self.last_job_id, self.area, self.area_at = 0, 0.0, 0.0         # leaving: {job id: (folder, fd)} of killed jobs
        self.on_change = lambda: None               # called when the number of slots in use has changed
        self.on_served = lambda connection, result: None            # and when a compile has ended well
        self.on_exchange = lambda: None             # a compiler is not the one that was looked at

    # -- slots

    def ask_slot(self, connection):
        """An LMRQ has come."""
        request = connection.slot_request
        if self.trust.secret and not self.gate.authentic(connection):
            return None
        self.audience.asked(connection.peer, self.loop.now())
        if request.identity not in self.offer.by_identity:
            return connection.refuse("compiler-unknown")
        if request.mode != MODE_PLAIN and not self.spawner.may_directives_only:
            return connection.refuse("mode")
        if request.size_kb * 1024 > self.max_job_bytes:
            return connection.refuse("too-large")
        if self.gate.waiting(connection.peer) >= WAITING_PER_ADDRESS:
            return connection.refuse("overloaded")
        answer = self.admission.request(connection.key(), connection, connection.memory_mb(), self.loop.now())
        if answer[0] == "granted":
            self.reserve(connection, answer[1])
        elif answer[0] == "parked":
            connection.state, connection.deadline = "parked", float("inf")
            connection.send(encode_parked(answer[1], int(answer[2] * 1000)))
        else:
            connection.refuse(answer[1])
        return self.on_change()

    def reserve(self, connection, reservation):
        connection.state, connection.deadline = "reserved", self.loop.now() + LEASE_S
        connection.compression = connection.slot_request.compression if zlib else NOT_COMPRESSED
        secret, request = self.trust.secret, connection.slot_request
        seal = secret.seal(b"granted", request.mac) if secret and request.mac else None
        connection.send(encode_granted(reservation, connection.compression, seal))

    def grant_next(self):
        """Slots may have become free: whoever waits longest by fair share gets them. One that is gone frees its own
        again, within this: it is given on below."""
        if self.granting:
            return
        self.granting = True
        try:
            while True:
                chosen = self.admission.next_granted(self.loop.now())
                if chosen is None:
                    return
                connection, reservation, _ = chosen
                try:
                    if connection.state == "queued":
                        self.start(connection)
                    else:
                        self.reserve(connection, reservation)
                except OSError as error:
                    connection.end("cancelled", error.strerror)
        finally:
            self.granting = False

    def drop(self, connection, cpu_s):
        """Give back all that a connection holds: slot, place in the queue, compiler, folder."""
        job_id, connection.job_id = connection.job_id, -1
        folder, connection.folder = connection.folder, None
        if job_id in self.running:
            self.count_area()
            del self.running[job_id]
            self.spawner.kill(job_id)
            self.poke()
            self.leaving[job_id] = (folder, connection.folder_fd)      # goes when the compiler has
            folder = None
        if folder is not None:
            self.spawner.remove_folder(folder, connection.folder_fd)
        self.admission.release(connection, cpu_s, self.loop.now())
        self.on_change()

    # -- jobs

    def begin(self, connection, request):
        """The command line and the size are known: check them, and make a folder and the source file."""
        if connection.slot_request:
            compiler = self.offer.find(identity=connection.slot_request.identity)
        else:
            compiler = self.offer.find(name=os.fsdecode(os.path.basename(request.argv[0])))
        if compiler is None:
            return connection.refuse("compiler-unknown", os.fsdecode(request.argv[0])[:100])
        if not compiler.unchanged():                # it is another now: asked again, but not while the others wait
            self.on_exchange()
            return connection.refuse("spawn", "its compiler was exchanged just now")
        if request.size > self.max_job_bytes:
            return connection.refuse("too-large", "%d bytes" % request.size)
        if not connection.slot_request and self.admission.refusal:
            return connection.refuse(self.admission.refusal)
        if not connection.slot_request and request.size > self.max_job_bytes - self.gate.kept_bytes(connection.peer):
            return connection.refuse("overloaded")
        try:
            words = [os.fsdecode(word) for word in request.argv[1:]]
            args, source, _ = serve_args(words, compiler.family, compiler.cxx)
        except RefusedArgument as error:
            return connection.refuse("argument", str(error))
        if "-fdirectives-only" in args and not self.spawner.may_directives_only:
            return connection.refuse("mode")        # gcc obeys a leftover #include in it
        connection.version = request.version
        name = os.fsencode(source)
        method = b"lzo" if request.version == 2 else b"zlib" if connection.compression else b""
        connection.packed = method + b":" + name if method and request.size else b""
        if len(name) > os.fpathconf(self.spawner.area.fd, "PC_NAME_MAX"):       # 143 on eCryptfs
            return connection.refuse("argument", os.strerror(errno.ENAMETOOLONG))
        try:
            connection.folder, connection.folder_fd = self.spawner.area.make_folder()
            connection.source_fd = create_source(connection.folder_fd, PACKED_NAME if connection.packed else name)
        except OSError as error:
            full = errno.errorcode.get(error.errno) in NO_ROOM
            return connection.refuse("disk" if full else "spawn", "--tmpdir: " + error.strerror)
        connection.argv = [os.fsencode(compiler.path)] + [os.fsencode(arg) for arg in args] + [b"-o", OBJECT_NAME]
        connection.what, connection.compiler = source, compiler
        connection.size, connection.begun = request.size, self.loop.now()
        connection.state, connection.left = "body", request.size
        connection.progress_in(0)
        return None

    def complete(self, connection):
        """The source is here. Our own clients hold a slot already; a distcc client gets in line now, so that one that
        stalled while sending never held a slot."""
        connection.deadline, connection.queued_at = float("inf"), self.loop.now()
        if connection.slot_request:
            return self.start(connection)
        if self.gate.waiting(connection.peer) >= WAITING_PER_ADDRESS:
            return connection.refuse("overloaded")
        answer = self.admission.request(connection.key(), connection, connection.memory_mb(), self.loop.now())
        if answer[0] == "granted":
            self.start(connection)
        elif answer[0] == "parked":
            connection.state = "queued"
        else:
            connection.refuse(answer[1])
        return self.on_change()

    def start(self, connection):
        self.count_area()
        self.last_job_id += 1
        connection.job_id = job_id = self.last_job_id
        connection.state, connection.started_at = "running", self.loop.now()
        connection.area_at_start, connection.deadline = self.area, float("inf")
        self.running[job_id] = connection
        env = {b"PATH": SERVER_PATH, b"LC_ALL": b"C", b"TMPDIR": connection.folder}
        try:
            address_space = max(ADDRESS_SPACE_LEAST_MB, ADDRESS_SPACE_RATIO * connection.memory_mb()) << 20
            self.spawner.spawn(job_id, connection.argv, connection.folder, env, connection.compiler.readable,
                               connection.packed, address_space)
            self.poke()
        except (RequestTooLarge, ValueError) as error:
            del self.running[job_id]
            connection.refuse("too-large", str(error))

    def poke(self):
        """What the spawner did not take at once goes out when its socket is writable again."""
        more = selectors.EVENT_WRITE if self.spawner.wants_write else 0
        self.loop.change(self.spawner, selectors.EVENT_READ | more)

    def count_area(self):
        """Integrate the number of running jobs over time: the mean of a job's concurrency."""
        now = self.loop.now()
        self.area += (len(self.running) + self.admission.foreign + self.admission.local_running) * (now - self.area_at)
        self.area_at = now

    def on_spawner(self, _events=0):
        """Results of the spawner. SpawnerGone is the daemon's to handle."""
        results = self.spawner.results()
        self.poke()
        for result in results:
            if result.kind == "started":
                continue
            if result.job_id in self.leaving:
                self.spawner.remove_folder(*self.leaving.pop(result.job_id))
            connection = self.running.get(result.job_id)
            if connection is None:
                continue
            self.count_area()
            del self.running[result.job_id]
            self.loop.call(connection, lambda row: self.ended(*row), (connection, result))
        self.grant_next()

    def ended(self, connection, result):
        """A compiler has ended, or could not be started: free the slot, then answer."""
        try:
            self.answer(connection, result)
        except OSError as error:
            connection.end("cancelled", error.strerror)

    def answer(self, connection, result):
        now = self.loop.now()
        elapsed = max(now - connection.started_at, 1e-6)
        concurrency = (self.area - connection.area_at_start) / elapsed
        if result.kind == "failed":
            return connection.refuse(SPAWN_REFUSALS.get(errno.errorcode.get(result.errno), "spawn"), result.text)
        if result.reason:
            return connection.refuse("timeout" if result.reason == "timeout" else "spawn", result.reason)
        folder_fd, status = connection.folder_fd, result.wait_status
        uid = self.spawner.area.account.uid
        stdout, stderr = (read_text(folder_fd, name, uid) for name in TEXT_NAMES)
        object_fd, size = -1, 0
        if status == 0:
            try:
                object_fd, size = open_result(folder_fd, OBJECT_NAME, uid)
            except (OSError, UnsafeResult) as error:
                status, stderr = 0x100, stderr + b"no object: %s\n" % os.fsencode(str(error))
        connection.size = unpacked_size(folder_fd, connection)
        self.drop(connection, result.cpu_s)
        self.counters.served += 1
        if not status:
            self.on_served(connection, result)
        times = Times(int((connection.started_at - connection.queued_at) * 1e3), int(result.elapsed_s * 1e3 + 0.5),
                      int(result.cpu_s * 1e3 + 0.5), result.max_rss_kb, concurrency)
        self.loop.log("info", "job %s from %s: %s, %d KB in, %d KB out, waited %d ms, took %d ms, cpu %d ms, "
                      "peak %d MB" % (connection.what, connection.peer, "ok" if not status else "status %#x" % status,
                                      connection.got >> 10, size >> 10, times.queue_ms, times.elapsed_ms, times.cpu_ms,
                                      times.peak_kb >> 10))
        return connection.reply(status, stderr, stdout, object_fd, size, times)

    def sweep(self, now):
        """Deadlines; and whoever has a slot here is to hear each second that this host lives."""
        self.gate.sweep(now)
        for connection in self.admission.holders:
            self.audience.asked(connection.peer, now)

    def close_all(self):
        for connection in list(self.connections):
            connection.end("", "")

    def check(self):
        """Conservation: raises AssertionError."""
        holding = {c for c in self.connections
                   if c.state in ("reserved", "running") or c.slot_request and c.state == "body"}
        assert holding == set(self.admission.holders), "%d slots taken, %d connections hold one" % (
            len(self.admission.holders), len(holding))
        running = [c for c in self.connections if c.state == "running"]
        assert all(c.job_id in self.running for c in running), "a job without its compiler"


# ==== 8. Peers ======================================================================================================
# Load reports in and out by UDP, and the connections that ask other hosts for a slot. No policy: what a report means is
# for Ledger and Scheduler to say. Uses 1 to 6.

def is_own_address(address):
    """Whether this box has it: nobody can send from it from elsewhere, as the kernel drops such packets."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
    except OSError:
        return False
    return True


class Neighbours:
    """Daemons under this box's kernel, heard of directly or through another: what they run is not foreign load here."""

    def __init__(self, boot, instance):
        self.boot, self.instance, self.rows = boot, instance, {}       # {instance: (jobs running, heard at)}

    def hear(self, load, now, trusted, address):
        """What it says of this kernel; who may only send jobs is believed from an address of this box's own."""
        if load.boot != self.boot or not self.boot.strip(b"\0") or not (trusted or is_own_address(address)):
            return
        self.rows = {key: row for key, row in self.rows.items() if now - row[1] < PEER_TIMEOUT_S}
        self.note(load.instance, load.running, now)
        for instance, running in load.kin.items():
            at = self.rows.get(instance, (0, 0))[1]
            if instance != self.instance and now - at > 2 * REPORT_INTERVAL_S:      # direct news is better
                self.note(instance, running, now - REPORT_INTERVAL_S)

    def note(self, instance, running, at):
        if instance in self.rows or len(self.rows) < NEIGHBOURS_MOST:
            self.rows[instance] = (running, at)

    def running(self, now):
        return {key: jobs for key, (jobs, at) in self.rows.items() if now - at < PEER_TIMEOUT_S}


class Sequences:
    """Of reports without a secret. Counted by address too: instances are public, and who may only send jobs must not
    number a host's reports, nor fill the table that hosts are in."""

    def __init__(self):
        self.tables = {True: {}, False: {}}         # believed as a host?: {(address, instance): (sequence, heard at)}

    def is_new(self, load, address, trusted, now):
        """False of a packet that came late or twice, and of a newcomer where the table is full."""
        table, who = self.tables[trusted], (address, load.instance)
        sequence, at = table.get(who, (-1, 0))
        if load.sequence <= sequence and now - at < PEER_TIMEOUT_S:
            return False
        if len(table) >= REPORTERS_MOST and who not in table:
            table = self.tables[trusted] = {key: row for key, row in table.items() if now - row[1] < PEER_TIMEOUT_S}
            if len(table) >= REPORTERS_MOST:
                return False
        table[who] = (load.sequence, now)
        return True


class Reports:
    """The UDP side: announces this daemon and merges what others announce."""

    def __init__(self, loop, scheduler, trust, neighbours, make_load):
        self.loop, self.scheduler, self.trust, self.neighbours = loop, scheduler, trust, neighbours
        self.make_load = make_load                  # () -> Load of this daemon now
        self.sockets = []                           # one per --listen
        self.broadcast = []                         # (socket, address) to send broadcasts
        self.audience = Audience(scheduler.hosts)
        self.zones = {}                             # link-local address: number of the interface it was heard on
        self.faces = {}                             # (address, port): own address that it speaks to, for sendmsg()
        self.face = []                              # of the packet in hand
        self.sequence, self.sent_at, self.sent_running, self.next_at = 0, 0.0, 0, 0.0
        self.dropped = self.bad = 0                 # packets from strangers; packets that are none
        self.other_versions = {}                    # (address, port): major version of what it sends
        self.unsealed = self.replayed = 0           # without the right MAC; seen before
        self.sequences = Sequences()
        self.homes = {}                             # instance: Endpoint that it was first heard from
        self.tenants = {}                           # Endpoint: instance that was last heard from there
        self.wanted = {}                            # instance that was asked to echo our challenge: when
        self.answered_at = 0.0                      # last report in answer to a wrong key

    # -- out

    def packet(self, load, now, wish=0, echoes=()):
        """The report as it is sent; `wish`: WANTS_REPORT, WANTS_ECHO."""
        self.sequence += 1
        load.sequence, load.kin = self.sequence, self.neighbours.running(now)
        load.capabilities |= wish
        secret = self.trust.secret
        if not secret:
            return load.encode()
        load.challenge, load.echoes = secret.challenge, list(echoes)
        return load.encode(secret.seal(b"report"))

    def announce(self, now, wanted=False):
        """Send the report to all whose turn it is; a target that cannot be reached now is tried again with the next
        one. `wanted`: to all, and they are asked for theirs."""
        self.next_at = now + REPORT_INTERVAL_S * random.uniform(1 - REPORT_JITTER, 1 + REPORT_JITTER)
        load = self.make_load()
        for targets, broadcast, interval_s in self.audience.due(now, wanted):
            load.interval_ms = interval_s * 1000
            packet = self.packet(load, now, WANTS_REPORT if wanted else 0)
            for address, port in targets:
                self.send(packet, address, port)
            for sock, address in self.broadcast if broadcast else ():
                broadcast_everywhere(sock, packet, address)
        self.sent_at, self.sent_running = now, load.running

    def send(self, packet, address, port):
        version = 6 if ":" in address else 4
        for sock in sorted(self.sockets, key=lambda sock: (sock.family == socket.AF_INET6) != (version == 6)):
            if version == 6 and sock.family == socket.AF_INET:
                continue
            mapped = version == 4 and sock.family == socket.AF_INET6        # [::] speaks both
            place = ("::ffff:" + address if mapped else address, port)
            try:
                face = self.faces.get((address, port))
                if address in self.zones:
                    place = (*place, 0, self.zones[address])
                if face:
                    sock.sendmsg([packet], face, 0, place)
                else:
                    sock.sendto(packet, place)
                return
            except OSError as error:                        # no route, buffer full, a refusal of the last packet's
                self.faces.pop((address, port), None)       # or that address of ours has moved
                self.loop.log("debug", "report to %s: %s" % (address, error.strerror))

    def ask_if_wanted(self, now):
        """The first job after a pause has come: hosts are to report at once."""
        if self.scheduler.wants_reports:
            self.scheduler.wants_reports = False
            self.announce(now, wanted=True)

    def changed(self, running, cores, now):
        """Report at once where the number of running jobs has moved enough, at most ten times a second."""
        if abs(running - self.sent_running) >= max(1, cores // 8):
            self.next_at = min(self.next_at, max(now, self.sent_at + REPORT_MIN_GAP_S))

    # -- in

    def on_readable(self, sock):
        """What has come. In a large farm the next come in a bunch: one that wakes the loop alone costs twice that."""
        self.read_reports(sock)
        if len(self.scheduler.hosts) > REPORTS_BUNCHED_HOSTS:
            self.loop.pause(sock, REPORT_BUNCH_S)

    def read_reports(self, sock):
        for _ in range(256):
            try:
                packet, notes, _, source = sock.recvmsg(UDP_MAX_BYTES + 1, FACE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:                        # ICMP's answer to an earlier packet
                self.loop.log("debug", "load reports: %s" % error.strerror)
                continue
            self.face = own_face(notes)
            self.take(packet, plain_address(source[0]), source[1], self.loop.now(), *source[3:])

    def take(self, packet, address, port, now, zone=0):
        """Merge one packet. From whom it is believed is decided before it is looked at."""
        known = self.trust.peers.get(Endpoint((address, port)))
        (served, used), secret = self.trust.standing(address), self.trust.secret
        if secret and packet[:4] == PACKET_MAGIC and not secret.right(b"report", *unseal(packet)):
            self.distrust(known, served, address, port, now)
            return
        if known is None and used is None and not served and not (secret and packet[:4] == PACKET_MAGIC):
            self.dropped += 1
            return
        try:
            load = Load.parse(packet)
        except OtherVersion as error:
            return self.hear_other(Endpoint((address, port)), known, error)
        except WireError as error:
            self.bad += 1
            self.loop.log("debug", "%s:%d: %s" % (address, port, error))
            return
        if load.instance == self.neighbours.instance:
            return
        self.learn_zone(address, zone, known)
        if len(self.faces) >= REPORTERS_MOST:
            self.faces.clear()
        self.faces[address, port] = self.face
        trusted = bool(secret or known is not None or used is not None)
        if not self.fresh(load, trusted, address, port, now):
            return
        self.neighbours.hear(load, now, trusted, address)
        if served:
            self.serve_reports(load, address, port, now)
        if known is not None:
            self.settle(load.instance, Endpoint((address, port)))
        elif load.port and (secret or load.port == used):
            known = self.discovered(load.instance, Endpoint((address, load.port)), now)
        if known is not None and load.port:
            host = self.scheduler.hosts[known]
            if host.load is None or host.silent(now):
                host.address = address                      # the one of its addresses that answers
            self.merge(host, load, now)

    def learn_zone(self, address, zone, known):
        """The interface behind a link-local address. A host's stays: the same address may be somebody's elsewhere."""
        if zone and (known is None or not self.zones.get(address)) and (
                address in self.zones or len(self.zones) < REPORTERS_MOST):
            self.zones[address] = zone

    def hear_other(self, endpoint, known, error):
        """A daemon of another major version: not understood, but shown."""
        self.bad += 1
        self.loop.log_seldom("warning", endpoint, "%s: %s: update the older of the two" % (endpoint, error))
        if endpoint in self.other_versions or len(self.other_versions) < 1000:
            self.other_versions[endpoint] = error.version
        if known is not None:
            self.scheduler.hosts[known].version = error.version

    def distrust(self, known, served, address, port, now):
        """A report without the right MAC. Its sender gets one of ours now and then, so that it is named there, too."""
        self.unsealed += 1
        if self.trust.wrong_key(address, now):
            self.loop.log("warning", "reports of %s: %s" % (address, reason_text("bad-mac")))
        if known is not None:
            self.scheduler.hosts[known].distrusted = now
        if (served or known is not None) and now - self.answered_at > WRONG_KEY_ANSWER_S:
            self.answered_at = now
            self.send(self.packet(self.make_load(), now), address, port)

    def serve_reports(self, load, address, port, now):
        """A box that may send jobs here gets our reports, at once if it wants or is new."""
        newcomer = self.audience.hear((address, port), now)
        if load.capabilities & WANTS_REPORT:
            self.audience.asked(address, now)
        if newcomer or load.capabilities & WANTS_REPORT:
            self.report_soon(now)

    def report_soon(self, now):
        self.next_at = min(self.next_at, max(now, self.sent_at + REPORT_MIN_GAP_S))

    def fresh(self, load, trusted, address, port, now):
        """Drops packets that come late or twice (over two ways, by broadcast and directly, or from a recording)."""
        secret = self.trust.secret
        if secret is None:
            return self.sequences.is_new(load, address, trusted, now)
        new = secret.report_is_new(load)
        if new:
            before = self.tenants.get((address, port))
            if before not in (None, load.instance):
                secret.supersede(before)
            if len(self.tenants) > 2 * REPORTERS_MOST:
                self.tenants.clear()
            self.tenants[address, port] = load.instance
        if new is not False:
            self.exchange_echoes(new is None, load, address, port, now)
        self.replayed += new is False
        return bool(new)

    def exchange_echoes(self, unproven, load, address, port, now):
        """Ask a sender that may be a recording for its echo, and give it ours if it asks: to it alone, one packet for
        one, so that a recording sets nothing off."""
        asking = unproven and now - self.wanted.get(load.instance, -ECHO_PAUSE_S) >= ECHO_PAUSE_S
        if asking:
            if len(self.wanted) >= REPORTERS_MOST:
                self.wanted.clear()
            self.wanted[load.instance] = now
        echoes = [load.challenge] if load.capabilities & WANTS_ECHO else []
        if asking or echoes:
            self.send(self.packet(self.make_load(), now, WANTS_ECHO if asking else 0, echoes), address, port)

    def discovered(self, instance, endpoint, now):
        """A daemon of a --use network, or with our secret: a host from now on. Its key; None for one that is a host by
        another address, or one too many."""
        key, hosts, home = str(endpoint), self.scheduler.hosts, self.homes.get(instance, endpoint)
        there = hosts.get(str(home))
        if home != endpoint and there and not there.silent(now) and (not there.load or there.load.instance == instance):
            return None                                     # else it has moved, and another has its address now
        if key not in hosts:
            if len(hosts) >= REPORTERS_MOST:
                return None
            hosts[key] = host = Host(key, key, "peer", endpoint)
            host.zone = self.zones.get(endpoint[0], 0)
            self.loop.log("info", "found %s" % key)
        self.settle(instance, endpoint)
        return key

    def settle(self, instance, endpoint):
        if len(self.homes) > 2 * REPORTERS_MOST:
            self.homes.clear()
        self.homes[instance] = endpoint

    def merge(self, host, load, now):
        if host.kind == "distccd":                          # listed as a distccd, answers as one of ours
            host.kind = "peer"
            self.loop.log("info", "%s is one of ours: used as a peer" % host.name)
        self.scheduler.report(host, load, now)
        self.scheduler.counted_to(host, load.counted_of(self.neighbours.instance))
        self.scheduler.statistics.told(host.key, load.kb_sum, load.cpu_ms_sum / 1e3)
        host.shared = bool(set(load.counted) - {self.neighbours.instance})


IP_PKTINFO = 8                      # linux/in.h; Python's socket names it from 3.14 on
FACE_BYTES = 64                     # room for one struct in_pktinfo or in6_pktinfo


def show_faces(sock):
    """Bound to no address it is to say at which of ours each packet came: the answer must come from there, or the
    asker, who knows a host by one of its addresses, takes it for a stranger's. (Linux; elsewhere the kernel picks.)"""
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def own_face(notes):
    """Of what recvmsg() noted what sendmsg() is to note, for an answer from the same address: of any interface."""
    for level, kind, data in notes:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) == 12:
            return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
        if (level, kind) == (socket.IPPROTO_IPV6, getattr(socket, "IPV6_PKTINFO", -1)) and len(data) == 20:
            return [(level, kind, data[:16] + bytes(4))]
    return []


def broadcast_everywhere(sock, packet, address):
    """To one broadcast address; the limited one, 255.255.255.255, on every interface (Linux: by IP_PKTINFO)."""
    targets = [b""]
    if address[0] == "255.255.255.255" and hasattr(socket, "if_nameindex") and sys.platform == "linux":
        try:
            targets = [struct.pack("@iII", index, 0, 0) for index, name in socket.if_nameindex() if name != "lo"]
        except OSError:
            pass                                            # no descriptor is free, or this sandbox has no netlink
    for info in targets:
        try:
            sock.sendmsg([packet], [(socket.IPPROTO_IP, IP_PKTINFO, info)] if info else [], 0, address)
        except OSError:
            continue                                        # an interface that is down or without an address


def interface_number(name):
    """Of an IPv6 zone, a number or a name; 0 where there is none."""
    try:
        return int(name) if name.isdigit() else socket.if_nametoindex(name)
    except OSError:
        return 0


class Resolver:
    """Looks names up in a thread of its own, since getaddrinfo blocks. Answers come back through a socket pair."""

    def __init__(self, loop, on_answer):
        self.loop, self.on_answer = loop, on_answer         # on_answer(name, [addresses])
        self.questions, self.answers = collections.deque(), collections.deque()
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.thread = None
        loop.watch(self.ours, selectors.EVENT_READ, self.on_readable)

    def ask(self, name):
        if name not in self.questions:
            self.questions.append(name)
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self.work, daemon=True)
            self.thread.start()

    def work(self):
        while self.questions:
            name = self.questions[0]
            try:
                found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(plain_address(row[4][0]) for row in found))
            except (OSError, UnicodeError):
                addresses = []
            self.answers.append((name, addresses))
            self.questions.popleft()
            self.theirs.send(b".")

    def on_readable(self, _events):
        try:
            self.ours.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        while self.answers:
            self.on_answer(*self.answers.popleft())


class SlotConnection:
    """A connection to a host that asks for a slot on behalf of a group. Once granted it belongs to a client."""
    __slots__ = ("asker", "request", "sock", "state", "decoder", "started", "question", "retried",
                 "compression", "tried")

    def __init__(self, asker, request):
        self.asker, self.request, self.compression = asker, request, NOT_COMPRESSED
        self.started, self.question, self.retried, self.tried = asker.loop.now(), None, False, set()
        self.open()

    def open(self):
        host, self.decoder = self.request.host, Decoder(decode_admission())
        self.tried.add(host.address)
        family = socket.AF_INET6 if ":" in host.address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)     # why, and why no more: Gate.accept()
        self.state = "connecting"

    def fileno(self):
        return self.sock.fileno()

    def connect(self):
        host = self.request.host
        if not host.address:                        # "" would mean this very box, whoever listens there
            return self.fail("connect", "its name is not resolved")
        code = self.sock.connect_ex(host.place())
        if code not in (0, errno.EINPROGRESS):
            return self.elsewhere() or self.fail("connect", os.strerror(code))
        self.asker.loop.watch(self, selectors.EVENT_WRITE, self.on_event)
        return None

    def on_event(self, _events):
        try:
            if self.state == "connecting":
                self.connected()
            else:
                self.read()
        except WireError as error:
            self.fail("garbage", str(error))
        except OSError as error:
            self.fail("connect" if self.state == "connecting" else "closed", error.strerror)

    def connected(self):
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return self.elsewhere() or self.fail("connect", os.strerror(code))
        request, host = self.request, self.request.host
        if host.kind == "distccd":                          # no admission: the connection is all there is to have
            self.measure()
            return self.granted(0)
        self.state = "asked"
        uid, identity, mode, _ = request.group
        question = self.question = SlotRequest(self.asker.instance, uid, request.size_kb, request.memory_mb, identity,
                                               mode, request.job_class, self.asker.compression(host))
        secret = self.asker.trust.secret
        if secret:
            secret.counter += 1
            question.counter = secret.counter
            question.challenge = host.load.challenge.ljust(CHALLENGE_BYTES, b"\0")
            question.dialled = dialled_address(self.sock.getpeername())
        self.sock.send(question.encode(secret and secret.seal(b"request")))      # fits an empty send buffer
        self.asker.loop.change(self, selectors.EVENT_READ)
        return None

    def kind(self):
        """What the client is to speak over it."""
        host = self.request.host
        if self.compression == ZLIB:
            return host.kind + ",zlib"
        return host.kind + (",lzo" if host.kind == "distccd" and host.lzo else "")

    def measure(self):
        self.asker.scheduler.statistics.host(self.request.host.key).rtt.add(self.asker.loop.now() - self.started)

    def read(self):
        try:
            data = self.sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return None
        if not data:
            return self.fail("closed", "")
        while self.request.state != "ended" and self.decoder.feed(data):        # LMWT and LMOK may come together
            answer, data = self.decoder.result, self.decoder.rest()
            self.decoder = Decoder(decode_admission())
            self.answered(answer, data)
        return None

    def answered(self, answer, rest):
        if answer[0] == "refused":
            if answer[1] != "restarted" or not self.ask_again(answer[2]):
                self.fail(answer[1], answer[2])
        elif answer[0] == "granted":
            if rest:
                raise WireError("data behind LMOK")
            if self.question.mac and not self.proven(b"granted", *answer[3:]):
                return self.fail("bad-mac", "")             # it would get a source, and return what will be run
            if self.state == "asked":
                self.measure()
            self.compression = answer[2]
            self.granted(answer[1])
        elif self.state == "asked":
            self.state = "parked"
            self.asker.scheduler.parked(self.request, self.asker.loop.now())

    def proven(self, kind, data=b"", mac=b""):
        """Whether the server has the key, and answers this very request."""
        secret = self.asker.trust.secret
        return secret is not None and secret.right(kind, self.question.mac + data, mac)

    def ask_again(self, text):
        """The server has forgotten us: the same request with its new challenge, once. False where that is no use."""
        try:
            challenge, mac = (bytes.fromhex(word) for word in text.split())
        except ValueError:
            return False
        if self.retried or not self.question.mac or not self.proven(b"restarted", challenge, mac):
            return False
        self.retried, self.request.host.load.challenge = True, challenge
        self.begin_again()
        return True

    def elsewhere(self):
        """At the host's next address, which later requests begin with. False where all were tried."""
        left = [address for address in self.request.host.addresses if address not in self.tried]
        if left:
            self.request.host.address, self.started = left[0], self.asker.loop.now()
            self.begin_again()
        return bool(left)

    def begin_again(self):
        self.asker.loop.unwatch(self)
        self.sock.close()
        self.state = "over"
        self.open()
        self.connect()

    def granted(self, reservation):
        self.asker.loop.unwatch(self)
        if self.asker.scheduler.granted(self.request, reservation, self.asker.loop.now()) is None:
            self.sock.close()
        self.asker.connections.discard(self)

    def fail(self, name, text):
        if name in ("bad-mac", "relayed", "replayed", "not-allowed"):
            self.asker.loop.log_seldom("warning", self.request.host.key, "%s: %s" % (
                self.request.host.name, reason_text(name)))
        if self.request.state != "ended":
            self.asker.scheduler.refused(self.request, name, text, self.asker.loop.now())
        self.close()

    def close(self):
        if self.sock.fileno() >= 0:
            self.asker.loop.unwatch(self)
            self.sock.close()
        self.asker.connections.discard(self)

    def abandon(self):
        self.fail("garbage", "an answer that could not be dealt with")


class Probe:
    """`check` asks one host for a slot: what a job meets, but the answer goes to a session, and no book of the
    scheduler knows of it. Stands in for Asker and scheduler towards its one SlotConnection."""

    def __init__(self, asker, host, uid, identity, size_kb, session):
        self.loop, self.instance, self.trust, self.connections = (
            asker.loop, asker.instance, asker.trust, asker.connections)
        self.scheduler, self.statistics, self.session = self, asker.scheduler.statistics, session
        job = Job(uid, "check", "", "check", "", session, self.loop.now())
        job.identity, job.size_kb = identity, size_kb
        self.request = Request(host, job, self.loop.now())

    def start(self):
        request, host, now = self.request, self.request.host, self.loop.now()
        if not host.address:
            return self.refused(request, "connect", "its name is not known", now)
        if self.trust.secret and host.kind == "peer" and not host.load:
            return self.refused(request, "silent", "it has not reported yet", now)
        try:
            connection = request.connection = SlotConnection(self, request)
        except OSError as error:
            return self.refused(request, "connect", error.strerror, now)
        self.connections.add(connection)
        return connection.connect()

    def granted(self, request, _reservation, now):
        request.state = "ended"
        self.session.send_socket(request, int((now - request.since) * 1e6))
        return True

    def compression(self, _host):
        return NOT_COMPRESSED               # the link itself is to be measured

    def parked(self, _request, _now):
        self.session.send(b"PARK")

    def refused(self, request, name, text, _now):
        request.state = "ended"
        self.session.send(b"NOPE", name, text)

    def close(self):
        if self.request.state != "ended":
            self.request.state = "ended"
            if self.request.connection:
                self.request.connection.close()


class Asker:
    """All questions that are under way."""

    def __init__(self, loop, scheduler, instance, trust):
        self.loop, self.scheduler, self.instance, self.trust = loop, scheduler, instance, trust
        self.connections = set()

    def ask(self, request):
        if request.state == "ended":
            return
        try:
            connection = request.connection = SlotConnection(self, request)
        except OSError as error:                            # out of descriptors, mostly
            self.scheduler.refused(request, "connect", error.strerror, self.loop.now())
            return
        self.connections.add(connection)
        connection.connect()

    def compression(self, host):
        """What to offer: measured links that are slow."""
        return ZLIB if zlib and self.scheduler.statistics.host(host.key).compresses() else NOT_COMPRESSED

    def withdraw(self, request):
        if request.connection:
            request.connection.close()

    def sweep(self, now):
        for connection in list(self.connections):
            if connection.state == "connecting" and now - connection.started > CONNECT_TIMEOUT_S:
                if not connection.elsewhere():
                    connection.fail("connect", "no answer for %d s" % CONNECT_TIMEOUT_S)


# ==== 9. Local ======================================================================================================
# The unix socket: sessions of `cc` clients and of status, why, jobs, drain. Peer credentials decide who sees what.
# No policy. Uses 1 to 6 and 8.

CREDENTIALS_FORMAT = "iII"          # struct ucred: pid, uid, gid; of containers uids are from 2^31 on, too


def peer_credentials(sock):
    """(pid, uid) of the other end of a unix socket; pid 0 where the system does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack(CREDENTIALS_FORMAT, sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
    local_peercred = sock.getsockopt(0, 1, 76)              # BSD, macOS: struct xucred: version, uid, groups
    return 0, struct.unpack_from("=II", local_peercred)[1]


def parent_of(pid):
    """Parent's pid, 0 where it cannot be told."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def known_reason(name):
    """A client's word goes into the statistics, and onto terminals, only where it is one of ours."""
    return name if name in REASONS else "other"


def place_named(fields):
    """The host that a message is about, which is its last field; None where it does not say."""
    return fields[0].decode("utf-8", "surrogateescape") or None if fields else None


def text_told(fields):
    """Digest of a text, the last of a message's fields, or ""."""
    return fields[0][:32].decode("ascii") if fields else ""


def figures_told(job, fields, now):
    """JobFigures from the numbers of a DONE. ValueError where the job cannot have them: they are learnt from, for all
    users, and kept."""
    sent, received, total_ms, *times = (int(field) for field in fields)
    timed = bool(times) and times[1] >= 0
    if not all(0 <= number < 1 << 40 for number in (sent, received, total_ms, *(times if timed else ()))):
        raise ValueError("figures that no job has")
    if total_ms / 1e3 > now - job.arrived + 1.0:        # the slack is for two processes' roundings
        raise ValueError("%d ms of a job that came %.0f s ago" % (total_ms, now - job.arrived))
    job_class, source_key = job.keys()
    figures = JobFigures(job.size_kb, job_class, source_key, total_ms / 1e3, (sent + received) / 1024, job.predicted_s)
    figures.sent_kb = sent / 1024
    return figures.timed(Times(*times[:4], concurrency=times[4] / 100)) if timed else figures


def digest(*words):
    """What a key is remembered by, however long: 16 bytes."""
    return hashlib.blake2b(b"\0".join(map(os.fsencode, words)), digest_size=16).digest()


class Conversation:
    """Messages to and from a client. A subclass has dispatch() and end(), which sets `closed`."""
    __slots__ = ("hub", "sock", "pid", "uid", "decoder", "unread", "outgoing", "answered", "closed")

    def __init__(self, hub, sock):
        self.hub, self.sock = hub, sock
        self.pid, self.uid = peer_credentials(sock)
        self.decoder, self.outgoing = Decoder(decode_fields()), bytearray()
        self.unread = b""               # came together with a message that was answered first
        self.answered = False           # since the last message: else it gets a WAIT
        self.closed = False

    def fileno(self):
        return self.sock.fileno()

    def dispatch(self, name, fields):
        raise NotImplementedError

    def end(self):
        raise NotImplementedError

    def on_event(self, events):
        """At most one message an event, and none while an answer is not taken: one client can neither hold up the
        others nor heap up answers."""
        try:
            if events & selectors.EVENT_WRITE:
                self.flush()
            if self.unread and not self.outgoing:
                self.take(b"")
            elif events & selectors.EVENT_READ and not self.outgoing:
                self.read()
        except WireError as error:
            self.hub.loop.log("debug", "client of uid %d: %s" % (self.uid, error))
            self.end()
        except OSError:
            self.end()

    def read(self):
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self.take(data)
        else:
            self.end()

    def take(self, data):
        data, self.unread = self.unread + data, b""
        if self.decoder.feed(data):
            (name, fields), self.unread = self.decoder.result, self.decoder.rest()
            self.decoder = Decoder(decode_fields())
            self.answered = False
            self.dispatch(name, fields)
            if name == b"HELO":
                self.hub.newcomers.append(self)
        self.wait()

    def wait(self):
        """A socket that can be written to is an event, too: with more to deal with it comes in the next turn."""
        if not self.closed:
            self.hub.loop.change(self, selectors.EVENT_WRITE if self.outgoing else
                                 selectors.EVENT_READ | selectors.EVENT_WRITE if self.unread else
                                 selectors.EVENT_READ)

    def send(self, name, *fields):
        self.answered = True
        self.outgoing += encode_fields(name, *fields)
        self.flush()

    def flush(self):
        if self.closed:
            return
        try:
            while self.outgoing:
                del self.outgoing[:self.sock.send(self.outgoing)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.end()
        self.wait()


class Session(Conversation):
    """One client's connection, from accept to close, and its job."""
    __slots__ = ("job", "recipe_key", "pidfd", "holds")

    def __init__(self, hub, sock):
        super().__init__(hub, sock)
        self.job = None
        self.recipe_key = None          # what recipes for stage 1 of this job are remembered by, its mode apart
        self.pidfd = None               # of the client that has become the local compiler: its end frees the slot
        self.holds = False              # the client keeps this connection while it compiles, and says how it went

    # -- in

    def dispatch(self, name, fields):
        handler = self.HANDLERS.get(name)
        if handler is None:
            raise WireError("message %r" % name)
        try:
            handler(self, fields)
        except (ValueError, IndexError) as error:
            raise WireError("%s: %s" % (name.decode("latin-1"), error)) from None

    def on_hello(self, fields):
        kind = fields[1]
        if fields[0] != CLIENT_VERSION:
            return self.turn_away(kind, "client-version", ": %s, the daemon's is %s" % (
                os.fsdecode(fields[0])[:20], CLIENT_VERSION.decode()))
        if kind in (b"cc", b"local") and self.hub.per_uid[self.uid] > SESSIONS_PER_UID:
            return self.turn_away(kind, "sessions")
        if self.job is not None or self.pidfd is not None:
            raise WireError("a second HELO")
        if kind in (b"cc", b"local"):
            self.relieve()
        if kind == b"cc":
            return self.hello_compile([os.fsdecode(field) for field in fields[2:12]])
        if kind == b"local":
            return self.hello_local(os.fsdecode(fields[2]), os.fsdecode(fields[3]))
        if kind == b"probe":
            return self.hub.probe(self, *(os.fsdecode(field) for field in fields[2:5]))
        self.hub.loop.settle()                      # so that it shows what has been decided by now
        text = self.hub.answer(kind.decode("ascii", "replace"), [os.fsdecode(field) for field in fields[2:]], self.uid)
        return self.send(*text)

    def turn_away(self, kind, reason, details=""):
        """A client of this kind gets no session: it does without the daemon, at once."""
        if kind in (b"cc", b"local"):
            self.hub.scheduler.turned_away(reason)
        return self.send(b"NOPE", REASONS[reason] + details)

    def relieve(self):
        """Give back the slot that this very process holds: it has become a script or the like, and
        that has become a client again."""
        if self.pid in self.hub.holders:
            for session in list(self.hub.sessions):
                if session.pid == self.pid and session.pidfd is not None:
                    session.on_process_end(0)

    def hello_compile(self, fields):
        source, output, job_class, stamp, flags, compiler_key, places, directives, cwd, *shape = fields
        now = self.hub.loop.now()
        if not source.startswith("/"):
            source = cwd + "/" + source
        job_class = job_class[:64].encode("ascii", "replace").decode()      # part of a message, and of the state file
        job = Job(self.uid, source[:PATH_BYTES], output[:PATH_BYTES], job_class,
                  digest(source, stamp, flags, compiler_key), self, now)
        if len(compiler_key) < 2 * PATH_BYTES:
            job.compiler_key, job.identity = compiler_key, self.hub.identity(self.uid, compiler_key, now)
        job.own_only, job.stays, job.may_directives = places in "13", places in "23", directives == "1"
        self.recipe_key = digest(compiler_key, shape[0], flags) if any(shape) else None
        job.source_key = digest(source, flags)[:8].hex()
        if self.hub.nested(self.pid):
            return self.send(b"LOCL", "nested", 0)
        self.job = job
        if job.identity == b"":
            return self.hub.scheduler.hello_local(job, "compiler-script", now)
        return self.hub.scheduler.hello(job, now)

    def hello_local(self, reason, source):
        now = self.hub.loop.now()
        if self.hub.nested(self.pid):
            return self.send(b"LOCL", "nested", 0)
        self.job = Job(self.uid, source, "", "", "", self, now)
        return self.hub.scheduler.hello_local(self.job, known_reason(reason), now)

    def on_identity(self, fields):
        identity = bytes.fromhex(fields[0].decode("ascii")) if fields else b""
        if len(identity) not in (0, IDENTITY_BYTES):
            raise WireError("an identity of %d bytes" % len(identity))
        job = self.need_job("preprocess")
        self.hub.remember_identity(self.uid, job.compiler_key, identity, self.hub.loop.now())
        job.identity = identity or None
        if not identity:
            self.hub.scheduler.go_home(job, "compiler-script", self.hub.loop.now())

    def on_size(self, fields):
        size, milliseconds, mode = (int(field) for field in fields[:3])
        if not (0 <= size < 1 << 40 and 0 <= milliseconds < 1 << 40 and mode in (MODE_PLAIN, MODE_DIRECTIVES)):
            raise WireError("a size of %d in mode %d" % (size, mode))
        job = self.need_job("preprocess")
        if job.identity is None:
            raise WireError("SIZE before the compiler's identity")
        for plain, keys in zip((True, False), fields[3:5]):
            self.hub.remember_files(self.uid, keys, plain)
        if self.recipe_key and fields[5:6] not in ([], [b""]) and len(fields[5]) <= LONG_COMMAND_BYTES:
            self.hub.recipes.put(self.uid, (self.recipe_key, job.mode), fields[5])
        now, job.text = self.hub.loop.now(), text_told(fields[6:7])
        self.hub.scheduler.sized(job, size // 1024 + 1, min(milliseconds / 1e3, now - job.since), mode, now)

    def on_seen(self, fields):
        known = self.hub.looked_into.rows(self.uid)
        keys = [fields[0][i:i + 16] for i in range(0, len(fields[0]), 16)] if fields else []
        self.need_job("preprocess")
        self.send(b"FILE", int(any(known.get(key) is False for key in keys)),
                  " ".join(str(number) for number, key in enumerate(keys) if key not in known))

    def on_fail(self, fields):
        job = self.need_job("remote", "wait", "home")
        reason, text = os.fsdecode(fields[0]), os.fsdecode(fields[1])[:200]
        self.hub.scheduler.failed(job, known_reason(reason), text, self.hub.loop.now(), place_named(fields[2:3]))

    def on_home(self, fields):
        job = self.need_job("queued", "preprocess", "wait", "remote", "home")
        self.holds = fields[1] == b"1"
        if job.state != "home":
            job.text = text_told(fields[3:4]) or job.text
            reason = known_reason(os.fsdecode(fields[0]))
            self.hub.scheduler.to_local(job, reason, self.hub.loop.now(), place_named(fields[2:3]))

    def on_done(self, fields):
        outcome, now = fields[0], self.hub.loop.now()
        job = self.need_job("remote", "wait", "home", "local", "preprocess")
        if outcome == b"failed":
            self.hub.scheduler.compile_failed(job, now)
        elif outcome in (b"local-ok", b"local-failed"):
            self.hub.scheduler.local_ended(job, outcome == b"local-ok", now)
        elif outcome == b"ok":
            self.hub.scheduler.finished(job, figures_told(job, fields[1:9], now), now, place_named(fields[9:10]))
        else:
            raise WireError("outcome %r" % outcome)
        self.job = None

    def need_job(self, *states):
        if self.job is None or self.job.state not in states:
            raise WireError("a message that does not fit state %s" % (self.job and self.job.state))
        return self.job

    HANDLERS = {b"HELO": on_hello, b"IDNT": on_identity, b"SEEN": on_seen, b"SIZE": on_size, b"FAIL": on_fail,
                b"HOME": on_home, b"DONE": on_done}

    # -- out

    def send_turn(self):
        recipe = self.hub.recipe(self.uid, (self.recipe_key, self.job.mode)) if self.recipe_key else NO_RECIPE
        remembered = self.hub.scheduler.memory.recall(self.job.uid, self.job.remember_key, self.hub.loop.now())
        self.send(b"TURN", self.job.mode, int(self.job.identity is None), recipe, int(bool(remembered)))

    def send_socket(self, request, microseconds=0):
        """Hand the granted connection over, and close our copy: from here on its only end is the client's."""
        sock, host = request.connection.sock, request.host
        self.answered = True
        mode = self.job.mode if self.job else MODE_PLAIN
        message = encode_fields(b"SOCK", host.name, request.connection.kind(), mode, microseconds)
        try:
            if self.outgoing:
                raise BlockingIOError
            socket.send_fds(self.sock, [message], [sock.fileno()])
        except OSError:
            self.end()
        finally:
            sock.close()

    def send_local(self):
        """It may run here. The slot comes back with the end of the process, which its pidfd tells even after exec."""
        if not self.holds and self.pidfd is None:
            try:
                self.pidfd = os.pidfd_open(self.pid)
            except (OSError, AttributeError):
                self.holds = True
        if self.pidfd is not None:
            self.hub.loop.watch(self.pidfd, selectors.EVENT_READ, self.on_process_end)
            self.hub.holders[self.pid] = self.hub.holders.get(self.pid, 0) + 1
        learns = self.job.reason == "local-is-faster"           # how fast this box is, if it goes well
        self.send(b"LOCL", self.job.reason, 1 if self.holds or learns else 0)

    def on_process_end(self, _events):
        self.hub.loop.unwatch(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = None
        self.hub.holders[self.pid] -= 1
        if not self.hub.holders[self.pid]:
            del self.hub.holders[self.pid]
        if self.job:
            self.hub.scheduler.local_ended(self.job, None, self.hub.loop.now())
            self.job = None
        self.end()

    def end(self):
        """The connection is over. A local run that its pidfd watches goes on; any other job ends with it."""
        if not self.closed:
            self.closed = True
            self.hub.loop.unwatch(self)
            self.sock.close()
        self.hub.end_probe(self)
        if self.pidfd is not None:
            return
        if self in self.hub.sessions:
            self.hub.sessions.discard(self)
            self.hub.per_uid[self.uid] -= 1
        if self.job:
            job, self.job = self.job, None
            if job.state == "local":
                self.hub.scheduler.local_ended(job, None, self.hub.loop.now())
            elif job.state != "ended":
                self.hub.scheduler.cancelled(job, self.hub.loop.now())

    abandon = end


class Hub:
    """All sessions, and what they share."""

    def __init__(self, loop, scheduler, answer, asker):
        self.loop, self.scheduler, self.asker = loop, scheduler, asker
        self.probes = {}                            # session of a `check`: its Probe
        scheduler.on_close = self.log_job
        self.answer = answer                        # (command, arguments, uid) -> (message name, field)
        self.sessions = set()
        self.identities = PerUser(COMPILERS_REMEMBERED)     # {compiler key: (identity or b"", when to ask again)}
        self.per_uid = collections.Counter()        # sessions
        self.looked_into = PerUser(FILES_REMEMBERED)        # {file key: whether it has nothing remarkable for stage 1}
        self.recipes = PerUser(RECIPES_REMEMBERED)  # {(Session.recipe_key, mode): recipe for stage 1}
        self.holders = {}                           # pid that holds a local slot: how many
        self.newcomers = []                         # said hello since the last decisions
        self.nameless = set()                       # uids whose names are to be looked up

    def accept(self, listener):
        for _ in range(64):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            sock.setblocking(False)
            session = Session(self, sock)
            if self.per_uid[session.uid] >= SESSIONS_PER_UID + QUESTIONS_PER_UID:
                self.scheduler.turned_away("sessions")
                session.send(b"NOPE", REASONS["sessions"])
                session.end()
                continue
            self.sessions.add(session)
            self.per_uid[session.uid] += 1
            self.learn_names(session.uid)
            self.loop.watch(session, selectors.EVENT_READ, session.on_event)

    def learn_names(self, uid=None):
        """Of users, before `status` tells them: when they come."""
        if uid is not None and uid not in USER_NAMES and len(self.nameless) < USER_NAMES_KEPT:
            self.nameless.add(uid)
        wanted = tuple(self.nameless)
        if wanted:
            self.loop.apart("user names", lambda: {uid: ask_name(uid) for uid in wanted}, self.names_learnt)

    def names_learnt(self, names):
        if len(USER_NAMES) >= USER_NAMES_KEPT:
            USER_NAMES.clear()
        USER_NAMES.update(names)
        self.nameless -= names.keys()
        self.learn_names()

    def probe(self, session, name, identity, size_kb):
        """`check` wants a slot on this very host. ValueError for what is no request."""
        host = next((host for host in self.scheduler.hosts.values() if host.name == name), None)
        self.end_probe(session)
        if host is None:
            return session.send(b"NOPE", "connect", "it is listed no longer")
        session.send(b"WAIT", "probe")
        identity = bytes.fromhex(identity)
        if len(identity) != IDENTITY_BYTES or not 0 <= int(size_kb) < 1 << 30:
            raise ValueError("a probe for %r, %s KB" % (identity, size_kb))
        probe = Probe(self.asker, host, session.uid, identity, int(size_kb), session)
        self.probes[session] = probe
        return probe.start()

    def log_job(self, job):
        """One line a job."""
        d = job.decision
        text = "%s of uid %d: %s" % (d.source, d.uid, d.outcome)
        if d.choice == "local":
            text += ": %s" % (LOCAL_REASONS.get(d.reason) or reason_text(d.reason))
        elif d.choice:
            text += " on %s, %d KB" % (d.choice, d.size_kb)
        if d.actual_s is not None:
            text += ", %.2f s" % d.actual_s
            if d.server_s:
                text += ", of which waiting %.2f s, compiling %.2f s" % d.server_s
        self.loop.log("info", text)

    def end_probe(self, session):
        probe = self.probes.pop(session, None)
        if probe:
            probe.close()

    def identity(self, uid, compiler_key, now):
        """What is known, or None. Now and then one client is asked anew, while the others go by what is known: the key
        tells nothing of an `as` that is not on PATH, and a -v may have failed just once."""
        identity, until = self.identities.rows(uid).get(compiler_key) or (None, 0.0)
        if identity is not None and now >= until:
            self.remember_identity(uid, compiler_key, identity, now)
            return None
        return identity

    def remember_identity(self, uid, compiler_key, identity, now):
        if compiler_key:
            self.identities.put(uid, compiler_key, (identity, now + IDENTITY_CHECK_S))

    def remember_files(self, uid, keys, plain):
        for i in range(0, len(keys), 16):
            self.looked_into.put(uid, keys[i:i + 16], plain)

    def recipe(self, uid, key):
        """What is remembered; to make one is asked for from the second time on: some commands come but once."""
        found = self.recipes.rows(uid).get(key)
        if found is None:
            self.recipes.put(uid, key, RECIPE_WANTED)
        return found or NO_RECIPE

    def nested(self, pid):
        """Whether a process above this one holds a local slot: then it must not wait for another."""
        for _ in range(64):
            if not self.holders or pid <= 1:
                return False
            pid = parent_of(pid)
            if pid in self.holders:
                return True
        return False

    def greet(self):
        """After decisions: whoever said hello and got no answer is told to wait, since a client gives up in 1 s."""
        newcomers, self.newcomers = self.newcomers, []
        for session in newcomers:
            if session.job and not session.answered:
                session.send(b"WAIT", session.job.state)

    def ping(self):
        for session in list(self.sessions):
            if session.job and session.job.state in ("queued", "wait", "home") and not session.outgoing:
                session.send(b"PING")

    def close_all(self):
        for session in list(self.sessions):
            if session.pidfd is not None:
                session.on_process_end(0)
            else:
                session.end()


# ---- what status, jobs and why tell

class View:
    """Builds the answers to status, jobs, why and drain from the daemon's parts. Times in the JSON are as named
    there."""

    def __init__(self, scheduler, admission, server, reports, facts, set_draining, compilers_used):
        self.scheduler, self.admission, self.server, self.reports = scheduler, admission, server, reports
        self.compilers_used = compilers_used        # () -> Hub.identities
        self.facts = facts                          # () -> the "daemon" object of the JSON and figures of this box
        self.set_draining = set_draining

    def answer(self, command, arguments, uid, now):
        """(message name, text) for a command of this uid."""
        privileged = uid in (0, os.geteuid())
        if command == "status":
            status = self.status(uid, privileged, now)
            if arguments == ["past"]:
                status.update(self.past(uid, privileged, now))
            return b"JSON", json.dumps(status)
        if command == "jobs":
            return b"JSON", json.dumps(self.scheduler.make_jobs(now))
        if command == "why":
            return b"JSON", json.dumps(self.why(arguments[0] if arguments else "", uid, privileged, now))
        if command == "drain":
            if not privileged:
                return b"NOPE", "only root and the daemon's user may drain it"
            if arguments not in (["on"], ["off"]):
                return b"NOPE", "drain takes on or off"
            self.set_draining(arguments[0] == "on")
            return b"JSON", json.dumps(arguments[0])
        return b"NOPE", "the daemon does not know %r" % command

    def status(self, uid, privileged, now):
        scheduler, facts = self.scheduler, self.facts()
        visible = [job for job in scheduler.jobs if privileged or job.uid == uid]
        totals = dict(scheduler.totals, local_reasons=dict(scheduler.local_reasons))
        if self.server:
            totals["served"] = self.server.counters.served
            totals["refused"] += self.server.counters.refused
        waiting = [job for job in scheduler.jobs if job.state in ("queued", "wait", "home")]
        by_user = collections.Counter(user_name(job.uid) for job in waiting)
        hosts = [self.local_host(facts, now)] + [self.remote_host(host, now) for host in scheduler.hosts.values()]
        used = {(key.rsplit(" ", 4)[0], identity) for owner, rows in self.compilers_used().users.items()
                for key, (identity, _) in rows.items() if identity and (privileged or owner == uid)}
        for row, host in zip(hosts[1:], scheduler.hosts.values()):
            row["lacks"] = self.lacks(host, used, now)
        return {
            "version": VERSION,
            "daemon": facts["daemon"],
            "hosts": hosts,
            "jobs": [self.job(job, now) for job in sorted(visible, key=lambda job: job.arrived)],
            "others": len(scheduler.jobs) - len(visible),
            "queue": {"waiting": sum(by_user.values()), "by_user": dict(by_user)},
            "totals": totals,
            "advice": {"make_jobs": scheduler.make_jobs(now)},
            "warnings": facts["warnings"],
            "other_versions": {str(who): version for who, version in self.reports.other_versions.items()},
            "packets": {"from_strangers": self.reports.dropped, "malformed": self.reports.bad,
                        "wrong_key": self.reports.unsealed, "replayed": self.reports.replayed},
            "secret": {"used": bool(self.reports.trust.secret), "wrong_keys": list(self.reports.trust.wrong_keys)},
        }

    def job(self, job, now):
        state = {"home": "wait", "ended": "local"}.get(job.state, job.state)
        host = job.lease.host.name if job.lease else "local" if job.state == "local" else None
        return {"user": user_name(job.uid), "uid": job.uid, "source": job.source, "host": host, "state": state,
                "elapsed_s": round(now - job.arrived, 3),
                "predicted_s": None if job.predicted_s is None else round(job.predicted_s, 3)}

    def figures(self, key):
        """The learnt part of a host's row; null where nothing is known yet."""
        figures = self.scheduler.statistics.host(key)
        by_load = [{"load": label, "ms_per_kb": round(row[0] / row[1] * 1e3, 3), "jobs": row[2]}
                   for row, (_, label) in zip(figures.by_load, figures.LOADS) if row[2]]

        def mean(value, digits=1):
            return round(value.value * 1e3, digits) if value.count else None
        return {"speed_ms_per_kb": round(figures.k() * 1e3, 3) if figures.samples else None, "samples": figures.samples,
                "by_load": by_load, "rtt_ms": mean(figures.rtt, 3),
                "bandwidth_kb_s": round(figures.bandwidth()) if figures.wire_s_sum else None,
                "mean_ms": {"queue": mean(figures.queue), "compile": mean(figures.compile),
                            "transfer": mean(figures.transfer)},
                "prediction_error": round(figures.error.value, 3) if figures.error.count else None}

    def local_host(self, facts, now):
        """This box: what it serves and what its own clients run here."""
        scheduler, admission = self.scheduler, self.admission
        running = len(scheduler.locals.holders) + len(admission.holders)
        row = {"name": "local", "address": facts["daemon"]["address"], "kind": "local",
               "state": ("draining" if admission.refusal == "draining" else
                         "busy" if admission.refusal or running >= scheduler.slots else "up"),
               "reason": reason_text(admission.refusal) if admission.refusal else "",
               "slots": admission.slots if self.server else scheduler.slots, "running": running,
               "waiting": len(scheduler.locals.waiting) + len(admission.parked), "mine": len(scheduler.locals.holders),
               "load": round(admission.foreign, 2), "cores": scheduler.cores,
               "memory_available_kb": facts["memory_available_kb"], "report_age_s": 0.0,
               "compilers": sorted(self.server.offer.by_name) if self.server else [],
               "contained": facts["contained"], "timed": True, "version": VERSION, "lacks": [],
               "jobs": {"ok": scheduler.totals["local"] + scheduler.totals["fallback"], "failed": 0, "refused": 0,
                        "cancelled": 0}}
        row.update(self.figures("local"))
        return row

    @staticmethod
    def lacks(host, used, now):
        """Of the (path, identity) of compilers that were used here the paths of those which the host has not, or in
        another version."""
        return sorted({path for path, identity in used if now < host.misfits.get(identity, now) or (
            host.load and host.load.port and identity not in host.load.identities)})

    def remote_host(self, host, now):
        load = host.load
        state, reason = host.state(now)
        contained = None
        if load:
            contained = ("landlock" if load.capabilities & CAN_LANDLOCK else
                         "user" if load.capabilities & CAN_USER else "none")
        row = {"name": host.name, "address": str(Endpoint((host.address or host.endpoint[0], host.endpoint[1]))),
               "kind": host.kind, "state": state, "reason": reason,
               "slots": host.slots() if load or host.kind == "distccd" else None,
               "running": load.running if load else None, "waiting": load.waiting if load else None,
               "mine": len(host.leases), "load": round(load.foreign, 2) if load else None,
               "cores": load.cores if load else None, "memory_available_kb": load.memory_mb * 1024 if load else None,
               "report_age_s": round(now - host.report_at, 3) if host.report_at is not None else None,
               "compilers": [identity.hex() for identity in load.identities] if load else None,
               "contained": contained, "timed": host.kind == "peer", "jobs": dict(host.counters),
               "version": load.version if load else None}
        row.update(self.figures(host.key))
        return row

    def past(self, uid, privileged, now):
        """`recent`: the last jobs, the caller's own or for root and the daemon's user all; `history`: samples of the
        queue."""
        recent = [{"user": user_name(d.uid), "uid": d.uid, "source": d.source, "size_kb": d.size_kb,
                   "host": d.choice, "outcome": d.outcome, "age_s": round(now - d.at, 3),
                   "spans": self.spans(d, now)}
                  for d in self.scheduler.decisions if privileged or d.uid == uid]
        names = ("waiting", "preprocess", "remote", "local", "slots")
        history = [dict(zip(names, row[1:]), age_s=round(now - row[0], 3)) for row in self.scheduler.history.rows]
        return {"recent": recent, "history": history}

    def spans(self, decision, now):
        return [{"what": what, "host": host, "at_s": round(begin, 4), "s": round(length, 4)}
                for what, host, begin, length in decision.spans(now)]

    def why(self, which, uid, privileged, now):
        """The last decisions that this uid may see: all of a file, or the last N (10)."""
        rows = [d for d in self.scheduler.decisions if privileged or d.uid == uid]
        if which and not which.isdigit():
            rows = [d for d in rows if d.source == which or d.source.endswith("/" + which.lstrip("./"))]
        rows = rows[-int(which):] if which.isdigit() else rows[-10:]
        return [{"age_s": round(now - d.at, 3), "source": d.source, "size_kb": d.size_kb, "choice": d.choice,
                 "reason": d.reason and reason_text(d.reason), "predicted_s": d.predicted_s, "actual_s": d.actual_s,
                 "outcome": d.outcome, "candidates": d.candidates, "events": d.events, "spans": self.spans(d, now)}
                for d in rows]


USER_NAMES = {}                     # uid: name


def user_name(uid):
    return USER_NAMES.get(uid) or str(uid)          # until Hub.learn_names() has the answer


def ask_name(uid):
    """The question may go to another machine, which may be slow, or down."""
    import pwd                                      # not everywhere
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


# ==== 10. Daemon ====================================================================================================
# The event loop that drives sections 7 to 9; what it reads of this box; signals, timers, start and end. No policy.

def stderr_is_journal():
    """As systemd says it: JOURNAL_STREAM is the device and inode of the stream that it made."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == "%d:%d" % (found.st_dev, found.st_ino)


class LogSink:
    """Lines to stderr or to a file. None waits for its reader: what is not taken is counted, and told when there is
    room again. No flag of a descriptor that others have, too, is changed: a pipe or terminal is opened anew."""

    def __init__(self, path=None):
        """OSError."""
        self.lost, self.sock, self.fd = 0, None, 2
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if path:
            self.fd = os.open(path, flags | os.O_CREAT, 0o666)
            return
        try:
            kind = os.fstat(2).st_mode
            if stat.S_ISSOCK(kind):                 # the journal's
                self.sock = socket.socket(fileno=os.dup(2))
            elif sys.platform == "linux" and not stat.S_ISREG(kind):    # that others write as well, at one offset
                self.fd = os.open("/dev/fd/2", flags)
        except OSError:
            pass                                    # closed, or another user's terminal

    def write(self, line):
        try:
            if self.lost:
                self.put("distcc_lm: %d lines of this log are lost: nobody read it" % self.lost)
                self.lost = 0
            self.put(line)
        except (OSError, ValueError):               # a full disk must not end the daemon either
            self.lost += 1

    def put(self, line):
        data = line.encode("utf-8", "replace")[:4095] + b"\n"      # a pipe takes 4096 bytes whole or not at all
        if self.sock:
            self.sock.send(data, socket.MSG_DONTWAIT)
        elif self.fd == 2 and not select.select((), (2,), (), 0)[1]:
            raise BlockingIOError
        else:
            os.write(self.fd, data)

    def __del__(self):
        if self.fd != 2:
            os.close(self.fd)


class Loop:
    """selectors and periodic tasks. A callback's OSError for want of descriptors goes to `on_no_descriptors`; any other
    exception is a bug: logged by name, and its connection closed where it has an end()."""
    LEVELS = ("error", "warning", "info", "debug")
    JOURNAL = {"error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}     # sd-daemon(3)

    def __init__(self, log_level="info", log_file=None):
        self.selector = selectors.DefaultSelector()
        self.errands, self.bell = {}, None          # name: what is to be done with what its thread gives; socket pair
        self.ended = collections.deque()            # (name, that)
        self.watched = {}                           # object: (fd, events, callback)
        self.paused = {}                            # object: when its events are wanted again
        self.tasks = []                             # [due, interval, function(now)]
        self.seldom = {}                            # what log_seldom() told lately: when
        self.level, self.log_path = self.LEVELS.index(log_level), log_file
        self.journal = not log_file and stderr_is_journal()
        try:
            self.sink = LogSink(log_file)
        except OSError as error:
            raise StartError("--log-file %s: %s" % (log_file, error.strerror)) from None
        self.on_no_descriptors = lambda: None
        self.on_gap = lambda seconds: None          # the process stood still
        self.settle = lambda: None                  # after each batch of events: carry out decisions
        self.awake = math.inf                       # since when its callbacks run; to start may take its time

    def now(self):
        return time.monotonic()

    def log(self, level, text):
        """One line; control characters that a peer may have sent never reach a terminal."""
        if self.LEVELS.index(level) <= self.level:
            clean = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
            if self.journal:                        # it keeps time and name itself
                self.sink.write(self.JOURNAL[level] + clean)
            elif not self.log_path:
                self.sink.write("distcc_lm: %s: %s" % (level, clean))
            else:
                self.sink.write("%s %s %s" % (time.strftime("%Y-%m-%d %H:%M:%S"), level, clean))

    def log_seldom(self, level, about, text):
        """A line that others can cause at will: once a minute for each of those."""
        now = self.now()
        if now - self.seldom.get(about, -LOG_REPEAT_S) < LOG_REPEAT_S:
            return
        self.seldom = {key: at for key, at in self.seldom.items() if now - at < LOG_REPEAT_S}
        if len(self.seldom) < 100:
            self.seldom[about] = now
            self.log(level, text)

    def reopen_log(self):
        if self.log_path:
            try:
                self.sink = LogSink(self.log_path)
            except OSError as error:
                self.log("error", "--log-file %s: %s" % (self.log_path, error.strerror))

    # -- descriptors

    def watch(self, what, events, callback):
        key = self.selector.register(what, events, (what, callback))
        self.watched[what] = (key.fd, events, callback)

    def change(self, what, events):
        entry = self.watched.get(what)
        if entry and entry[1] != events:
            self.selector.modify(what, events, (what, entry[2]))
            self.watched[what] = (entry[0], events, entry[2])

    def pause(self, what, seconds):
        """No events of it for so long."""
        self.selector.unregister(self.watched[what][0])
        self.paused[what] = self.now() + seconds

    def resume(self, now):
        for what in [what for what, at in self.paused.items() if now >= at]:
            del self.paused[what]
            _, events, callback = self.watched[what]
            self.selector.register(what, events, (what, callback))

    def unwatch(self, what):
        entry = self.watched.pop(what, None)
        if entry and self.paused.pop(what, None) is None:
            self.selector.unregister(entry[0])

    # -- what may block

    def apart(self, name, work, then):
        """work() in a thread, then then(what it gave) in the loop: for all that may wait for a disk, a name server or a
        program. False while the last of that name is at it still, or where there is no thread to be had."""
        if name in self.errands:
            return False
        if self.bell is None:
            self.bell = socket.socketpair()
            for sock in self.bell:
                sock.setblocking(False)
            self.watch(self.bell[0], selectors.EVENT_READ, self.on_bell)

        def errand():
            try:
                self.ended.append((name, work(), None))
            except Exception as error:              # noqa: BLE001 - raised again in the loop
                self.ended.append((name, None, error))
            try:
                self.bell[1].send(b".")
            except OSError:
                pass                                # full: then it rings already
        self.errands[name] = then
        try:
            threading.Thread(target=errand, daemon=True).start()
        except RuntimeError:
            del self.errands[name]
        return name in self.errands

    def on_bell(self, _events):
        self.bell[0].recv(4096)
        self.collect()

    def collect(self):
        while self.ended:
            name, result, error = self.ended.popleft()
            self.call(None, lambda row: self.finish(*row), (self.errands.pop(name), result, error))

    @staticmethod
    def finish(then, result, error):
        if error:
            raise error
        then(result)

    # -- time

    def every(self, interval, function):
        self.tasks.append([self.now() + interval, interval, function])

    def turn(self, due):
        """Wait for events, or until `due` or the next task; deal with them."""
        before = self.now()
        timeout = max(0.0, min([due] + [task[0] for task in self.tasks] + list(self.paused.values())) - before)
        ready = self.selector.select(timeout)
        self.forgive_gap(timeout)
        self.awake = now = self.now()
        if self.paused:
            self.resume(now)
        for key, events in ready:
            what, callback = key.data
            if what in self.watched:                # an earlier callback may have closed it
                self.call(what, callback, events)
        for task in self.tasks:
            if now >= task[0]:
                task[0] = now + task[1]
                self.call(None, task[2], self.now())
        self.call(None, lambda _: self.settle(), now)

    def forgive_gap(self, meant=0.0, what=None):
        """Where the process stood still for longer than it meant to (suspend, SIGSTOP, a callback that hung), on_gap
        hears of it before anything judges by the clock: what came meanwhile, and is still to be read, is not late."""
        gap = self.now() - self.awake - meant
        if gap > SUSPEND_GAP_S:
            self.awake = self.now()
            self.log("warning", "stood still for %.1f s, in %s" % (
                gap, getattr(what, "__qualname__", "a callback") if what else "sleep"))
            self.call(None, self.on_gap, gap)

    def call(self, what, callback, argument):
        try:
            callback(argument)
        except SpawnerGone:
            raise
        except Exception as error:                  # noqa: BLE001 - one connection's bug must not end the daemon
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                self.on_no_descriptors()
                return
            import traceback
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.log("error", "bug: %s: %s (%s line %d)" % (type(error).__name__, error, where.name, where.lineno))
            if hasattr(what, "abandon"):
                self.call(None, lambda _: what.abandon(), None)
        self.forgive_gap(0.0, callback)


def read_words(path):
    with open(path) as file:
        return file.read().split()


class Cgroups:
    """The cgroups of this process, of both versions, and those above, to the root of the mount,
    which in a container is its own."""
    CPU = {False: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), True: ("cpu.max",)}
    MEMORY = {False: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
              True: ("memory.max", "memory.current")}
    CACHE = ("active_file", "inactive_file")    # of memory.stat: used, but given up when needed

    def __init__(self, procfs):
        self.rows = {"cpu": [], "memory": []}   # controller: [(whether of version 2, folder)]
        root = "/sys/fs/cgroup" if procfs == "/proc" else procfs + "/cgroup"
        try:
            lines = read_words(procfs + "/self/cgroup")
        except OSError:
            return
        for line in lines:
            number, _, line = line.partition(":")
            controllers, _, path = line.partition(":")
            for controller, rows in self.rows.items():
                if number != "0" and controller not in controllers.split(","):
                    continue
                below = root if number == "0" else root + "/" + controller
                steps = [below, *filter(None, path.split("/"))]
                rows += [(number == "0", "/".join(steps[:i])) for i in range(1, len(steps) + 1)]

    def least(self, controller, figure):
        """The least figure(version 2, folder), or None; one that raises has no limit there."""
        found = []
        for row in self.rows[controller]:
            try:
                found.append(figure(*row))
            except (IndexError, OSError, ValueError):
                continue
        return min(found, default=None)

    def cpus(self):
        def quota(second, folder):
            files = ["%s/%s" % (folder, name) for name in self.CPU[second]]
            quota, period = [word for path in files for word in read_words(path)]
            if int(quota) < 0:
                raise ValueError
            return int(quota) / int(period)
        return self.least("cpu", quota)

    def memory_kb(self):
        """What may still be used."""
        def rest(second, folder):
            files = ["%s/%s" % (folder, name) for name in self.MEMORY[second]]
            most, used = [int(read_words(path)[0]) for path in files]
            if most >= 1 << 60:                 # as the first version says that there is none
                raise ValueError
            words = read_words(folder + "/memory.stat")
            figures = dict(zip(words[::2], map(int, words[1::2])))
            cache = sum(figures.get(name if second else "total_" + name, 0) for name in self.CACHE)
            return max(0, most - used + cache) >> 10
        return self.least("memory", rest)


class Box:
    """What this machine says of itself, under --procfs."""

    def __init__(self, procfs, tmpdir):
        self.procfs, self.tmpdir = procfs, tmpdir
        self.foreign, self.measured_at, self.short = 0.0, None, False
        self.boot, self.cgroups = self.boot_id(), Cgroups(procfs)
        self.cores = self.usable_cores()

    def read(self, name):
        try:
            with open(os.path.join(self.procfs, name)) as file:
                return file.read()
        except OSError:
            return ""

    def boot_id(self):
        try:
            return bytes.fromhex(self.read("sys/kernel/random/boot_id").strip().replace("-", ""))[:16].ljust(16, b"\0")
        except ValueError:
            return bytes(16)

    def usable_cores(self):
        """By affinity, with a foreign --procfs the processors that its stat lists; and by quota."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.procfs != "/proc":
            lines = self.read("stat").splitlines()
            cores = sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines) or cores
        return max(1, min(cores, math.ceil(self.cgroups.cpus() or cores)))

    def runnable(self):
        """Tasks that run or want to, of the whole machine; the 1-minute average where there is no /proc."""
        try:
            return int(self.read("loadavg").split()[3].partition("/")[0])
        except (IndexError, ValueError):
            return os.getloadavg()[0] + 1

    def measure(self, own, now):
        """Smoothed number of runnable tasks that are neither this daemon nor the `own` jobs."""
        sample = max(0.0, self.runnable() - 1 - own)
        if self.measured_at is None:
            self.foreign = 0.0
        else:
            share = min(1.0, (now - self.measured_at) / FOREIGN_SMOOTHING_S)
            self.foreign += (sample - self.foreign) * share
        self.measured_at = now
        return self.foreign

    def memory_available_kb(self):
        """Of the machine, or what the cgroup allows still; None where neither is known."""
        lines = self.read("meminfo").splitlines()
        free = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        allowed = self.cgroups.memory_kb()
        return min(free + [allowed] if allowed is not None else free, default=None)

    def disk_short(self):
        """May wait for the disk, so it is asked apart from the loop, and `short` is the last answer."""
        try:
            found = os.statvfs(self.tmpdir)
        except OSError:
            return True
        return found.f_bavail * found.f_frsize < DISK_RESERVE_MB << 20


def prepare_socket_folder(folder, default):
    """Make it where it is a default one; under the temp dir it must be one's own, 0700 and no link. Raises
    StartError."""
    if not default:
        return
    if not os.path.lexists(folder):
        os.makedirs(folder, 0o755 if os.geteuid() == 0 else 0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise StartError("%s: no folder of this user" % folder)
    private = os.path.basename(folder) == "distcc_lm-%d" % os.geteuid()
    if private and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        raise StartError("%s: must be this user's alone (mode 0700)" % folder)


class Doors:
    """The listening sockets: TCP for jobs and UDP for reports at each --listen, an ear for broadcasts, and the unix
    socket."""

    def __init__(self, config):
        self.config = config
        self.tcp, self.udp, self.ears = [], [], []
        self.bound = []                             # Endpoints, with the ports that 0 became
        self.unix = self.lock = self.unix_inode = None

    def open(self, serving):
        """Raises StartError."""
        for endpoint in self.config.listen:
            for attempt in range(20):               # port 0: the port that TCP got may be taken for UDP
                port = self.open_pair(endpoint, serving, last=attempt == 19 or endpoint[1] != 0)
                if port:
                    self.bound.append(Endpoint((endpoint[0], port)))
                    break
        if self.config.broadcast:
            self.open_ear(self.config.broadcast, self.bound[0][1])
        self.open_unix()

    def open_pair(self, endpoint, serving, last):
        """Bind TCP and UDP to one port; the port, or 0 where UDP's was taken and another is to be tried."""
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        port, tcp, udp = endpoint[1], None, None
        try:
            if serving:
                tcp = socket.socket(family, socket.SOCK_STREAM)
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tcp.bind((endpoint[0], port))
                port = tcp.getsockname()[1]
                tcp.listen(1024)
                tcp.setblocking(False)
            udp = socket.socket(family, socket.SOCK_DGRAM)
            udp.bind((endpoint[0], port))
            udp.setblocking(False)
            if endpoint[0] in ("0.0.0.0", "::"):
                show_faces(udp)
        except OSError as error:
            for sock in (tcp, udp):
                if sock:
                    sock.close()
            if not last and error.errno == errno.EADDRINUSE:
                return 0
            hint = "; does distccd or another daemon run there? --listen takes another port" if (
                error.errno == errno.EADDRINUSE) else ""
            raise StartError("--listen %s: %s%s" % (endpoint, error.strerror, hint)) from None
        self.tcp += [tcp] if tcp else []
        self.udp.append(udp)
        return udp.getsockname()[1]

    def open_ear(self, address, port):
        """A socket that hears broadcasts, where --listen names one address."""
        for sock in self.udp:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if self.bound[0][0] == "0.0.0.0":
            return
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            ear.bind((address, port))
        except OSError as error:
            ear.close()
            raise StartError("--broadcast %s: %s" % (address, error.strerror)) from None
        ear.setblocking(False)
        self.ears.append(ear)

    def open_unix(self):
        """The lock beside it tells a live daemon's socket from a stale one."""
        path = self.config.socket
        folder = os.path.dirname(path) or "."
        try:
            prepare_socket_folder(folder, path == default_sockets(os.geteuid(), os.environ)[0])
            if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise StartError("--socket %s: exists and is no socket" % path)
            self.take_lock(path)
            if os.path.lexists(path):
                os.unlink(path)
            self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            old = os.umask(0o177)
            try:
                self.unix.bind(path)
            finally:
                os.umask(old)
            made = os.stat(folder)
            shared = os.geteuid() == 0 and made.st_uid == 0 and not made.st_mode & 0o022
            os.chmod(path, 0o666 if shared else 0o600)
            self.unix_inode = os.stat(path).st_ino
            self.unix.listen(1024)
            self.unix.setblocking(False)
        except OSError as error:
            raise StartError("--socket %s: %s" % (path, error.strerror)) from None

    def take_lock(self, path):
        lock = open(path + ".lock", "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StartError("--socket %s: another daemon serves it; end that, or name another path" % path) from None
        self.lock = lock

    def close_unix(self):
        """Close it, and remove its name if that is still ours."""
        if self.unix is None:
            return
        self.unix.close()
        self.unix = None
        try:
            if os.lstat(self.config.socket).st_ino == self.unix_inode:
                os.unlink(self.config.socket)
        except OSError:
            pass

    def close(self):
        self.close_unix()
        for sock in self.tcp + self.udp + self.ears:
            sock.close()
        if self.lock:
            self.lock.close()


def find_host_list(environ):
    """(text, where it stood) as distcc searches: DISTCC_HOSTS, then the user's file, then the system's. ("", "") if
    none."""
    if "DISTCC_HOSTS" in environ:
        return environ["DISTCC_HOSTS"], "DISTCC_HOSTS"
    folder = environ.get("DISTCC_DIR") or os.path.expanduser("~/.distcc")
    for path in (os.path.join(folder, "hosts"), "/etc/distcc/hosts"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read(), path
        except OSError:
            continue
    return "", ""


class Directory:
    """The hosts that the options name: --peer and --hosts; names are resolved again while their host is away."""

    def __init__(self, config, loop, scheduler, trust, zones):
        self.config, self.loop, self.scheduler, self.trust = config, loop, scheduler, trust
        self.zones = zones                          # link-local address: number of its interface
        self.hosts = scheduler.hosts
        self.resolver = Resolver(loop, self.resolved)
        self.listed = set()                         # keys of hosts that options or lists name
        self.listing, self.warned = HostList(), set()

    def load(self):
        """Add what is new, let go what is no longer listed. Raises StartError."""
        wanted = [Host(str(endpoint), str(endpoint), "peer", endpoint) for endpoint in self.config.peer]
        self.listing = self.read_host_list()
        wanted += [Host(str(entry.endpoint), str(entry.endpoint), "distccd", entry.endpoint, entry.slots, entry.lzo)
                   for entry in self.listing.entries]
        keys = {host.key for host in wanted}
        for key in self.listed - keys:
            if key in self.hosts:
                self.hosts[key].retired = True
        self.listed = keys
        self.forget_retired()
        for host in wanted:
            if host.key not in self.hosts:
                self.add_host(host)
            else:
                known = self.hosts[host.key]
                known.retired, known.lzo, known.listed_slots = False, host.lzo, host.listed_slots
        self.set_limits()

    def set_limits(self):
        """What the host list says of this box; --slots has the last word."""
        listing, scheduler = self.listing, self.scheduler
        scheduler.slots = self.config.slots or listing.localslots or scheduler.cores
        scheduler.turn_limit = listing.localslots_cpp or scheduler.cores
        scheduler.home_limit = listing.localhost or math.inf
        scheduler.job_timeout_s = self.config.job_timeout

    def forget_retired(self):
        """Hosts that are listed no longer go when their last job has ended and no request waits there."""
        asked = {request.host for group in self.scheduler.groups.values() for request in group.requests}
        for key, host in list(self.hosts.items()):
            if host.retired and not host.leases and not host.asking and host not in asked:
                del self.hosts[key]
                self.trust.peers = {e: k for e, k in self.trust.peers.items() if k != key}

    def read_host_list(self):
        """--hosts, or what distcc would use, and no error there ends a daemon that was not told to use it."""
        text, origin = self.config.hosts, "--hosts"
        if text is None:
            text, origin = find_host_list(os.environ)
        try:
            listing = HostList(text)
        except UsageError as error:
            if self.config.hosts is not None:
                raise StartError("--hosts: %s" % error) from None
            listing = HostList()
            listing.warnings.append("%s: %s: no host of it is used" % (origin, error))
        for warning in listing.warnings:
            if warning not in self.warned:          # once, however often SIGHUP comes
                self.loop.log("warning", warning)
        self.warned.update(listing.warnings)
        return listing

    def add_host(self, host):
        self.hosts[host.key] = host
        try:
            address = plain_address(str(ipaddress.ip_address(host.endpoint[0].partition("%")[0])))
            self.set_addresses(host, [address])
        except ValueError:
            host.address, host.addresses = "", []
            self.resolver.ask(host.endpoint[0])

    def set_addresses(self, host, addresses):
        """From here on jobs go to one of these, and reports are believed from each; what another entry has is left to
        that, and an entry that has nothing else is dropped."""
        places = {Endpoint((address, host.endpoint[1])): address for address in addresses}
        own = [place for place in places if self.trust.peers.get(place, host.key) == host.key]
        if not own:
            self.loop.log("warning", "%s is listed already, as %s" % (host.name, self.trust.peers[next(iter(places))]))
            host.retired = True
            return
        self.trust.peers = {e: key for e, key in self.trust.peers.items() if key != host.key}
        self.trust.peers.update(dict.fromkeys(own, host.key))
        host.addresses = [places[place] for place in own]
        if host.address not in host.addresses:
            host.address = host.addresses[0]
        zone = host.endpoint[0].partition("%")[2]
        if zone:
            host.zone = self.zones[host.address] = interface_number(zone)

    def resolved(self, name, addresses):
        for host in list(self.hosts.values()):
            if host.endpoint[0] == name:
                if not addresses:
                    self.loop.log("warning", "%s: no such host is known; asked again each 30 s" % name)
                elif set(addresses) != set(host.addresses):
                    self.set_addresses(host, addresses)
                if host.kind == "peer" and addresses and all(":" in address for address in addresses) and not any(
                        ":" in endpoint[0] for endpoint in self.config.listen):
                    self.loop.log_seldom("warning", name, "%s has IPv6 addresses only: no load report can come from "
                                         "there without --listen [::]" % name)

    def resolve_again(self, now):
        self.forget_retired()
        for host in self.hosts.values():
            silent = host.kind == "peer" and host.silent(now)
            if silent and host.listed_slots:            # a distccd that was one of ours for a while, or so it was said
                host.kind, host.load, host.report_at, host.full = "distccd", None, None, False
            elif silent and host.key not in self.listed and host.report_at is not None:     # it was found
                host.retired |= now - host.report_at > GONE_S       # and will be again
            named = host.endpoint[0] != host.address
            if named and (not host.address or host.failures or silent):
                self.resolver.ask(host.endpoint[0])


def default_state_path(endpoint):
    name = "%s_%d.state" % (endpoint[0].replace(":", "."), endpoint[1])
    if os.geteuid() == 0:
        return os.path.join("/var/lib/distcc_lm", name)
    return os.path.expanduser(os.path.join("~/.local/state/distcc_lm", name))


def load_state(path, log):
    """The Statistics kept at `path`; new ones, and a warning, where that is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return Statistics.from_dict(json.load(file))
    except FileNotFoundError:
        return Statistics()
    except (OSError, ValueError, RecursionError) as error:
        log("warning", "--state %s: %s: learning anew" % (path, error))
        return Statistics()


def save_state(path, text, log):
    """By rename, so that a crash leaves the old or the new one."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".new", path)
    except OSError as error:
        log("warning", "--state %s: %s" % (path, error.strerror))


class Station:
    """This box as a host: what it has free, and what it reports of itself."""

    def __init__(self, config, box, scheduler, admission, neighbours, spawner):
        self.config, self.box, self.scheduler, self.admission = config, box, scheduler, admission
        self.neighbours, self.spawner = neighbours, spawner
        self.server, self.port = None, 0            # of a daemon that serves
        self.draining = False
        self.available_kb = None

    def measure(self, now):
        """Take in foreign load, memory and disk; Admission says how many slots that makes."""
        kin = sum(self.neighbours.running(now).values())
        scheduler = self.scheduler
        scheduler.kin_running = kin + len(self.admission.holders)
        own = kin + len(self.server.running if self.server else ()) + len(scheduler.locals.holders) + len(
            scheduler.turns.holders)
        foreign = scheduler.foreign = self.box.measure(own, now)
        self.available_kb = self.box.memory_available_kb()
        available_mb = self.available_kb >> 10 if self.available_kb is not None else 1 << 20
        self.admission.measure(self.box.cores, foreign, available_mb, self.config.min_memory,
                               self.refusal(available_mb), now)
        if self.server:
            self.server.grant_next()

    def served(self, connection, result):
        """A compile has ended well here: what this box learns of itself, and publishes."""
        request = connection.slot_request
        job_class = (request.job_class + MODE_MARKS[request.mode]) if request else "plain distcc"
        self.scheduler.statistics.observe_served(connection.size / 1024, job_class, result.cpu_s,
                                                 result.max_rss_kb >> 10)

    def refusal(self, available_mb):
        """The name of what forbids new jobs now, or None."""
        if self.draining:
            return "draining"
        if available_mb < self.config.min_memory:
            return "memory"
        return "disk" if self.spawner and self.box.short else None

    def running(self):
        """Jobs on this box as others should see them: served, local, and preprocessing where none are served."""
        busy = len(self.admission.holders) + len(self.scheduler.locals.holders)
        return busy if self.server else busy + len(self.scheduler.turns.holders)

    def state(self):
        if self.admission.refusal:
            return STATE_DRAINING if self.admission.refusal == "draining" else STATE_SHORT
        return STATE_BUSY if self.running() >= self.admission.slots else STATE_UP

    def capabilities(self):
        if not self.spawner:
            return 0
        contained = {"landlock": CAN_LANDLOCK, "user": CAN_USER}.get(self.spawner.containment, 0)
        return contained | (CAN_DIRECTIVES if self.spawner.may_directives_only else 0)

    def load(self):
        """The report, but for what Reports adds to it."""
        admission, figures = self.admission, self.scheduler.statistics.host("local")
        return Load(instance=self.neighbours.instance, boot=self.box.boot, port=self.port, cores=self.box.cores,
                    slots=admission.slots, running=self.running(), waiting=len(admission.parked),
                    foreign=admission.foreign, memory_mb=(self.available_kb or 0) >> 10, state=self.state(),
                    capabilities=self.capabilities(), interval_ms=REPORT_INTERVAL_S * 1000, kb_sum=figures.kb_sum,
                    cpu_ms_sum=figures.cpu_sum * 1e3, counted=admission.counted,
                    identities=list(self.server.offer.by_identity) if self.server else [], version=VERSION)


class SpareDescriptor:
    """Kept to be given up when there is no other, so that one who waits can be accepted."""

    def __init__(self):
        self.fd = None
        self.keep()

    def keep(self):
        try:
            self.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.fd = None                          # another process has taken the system's last one

    def turn_away(self, listeners):
        if self.fd is not None:
            os.close(self.fd)
        for listener in listeners:
            try:
                listener.accept()[0].close()
            except (OSError, AttributeError):       # nobody waits there; or it is closed already
                continue
        self.keep()


class Upkeep:
    """What is seen to now and then, apart from the loop, since it may wait for a disk or a program."""

    def __init__(self, config, loop, box, statistics):
        self.config, self.loop, self.box, self.statistics = config, loop, box, statistics
        self.client_start = client_start()
        self.offer = None                           # of a daemon that serves
        self.on_offer = lambda: None                # other compilers are offered

    def begin(self):
        every = self.loop.every
        every(STATE_SAVE_S, self.save_state)
        every(IDENTITY_CHECK_S, self.look_at_program)
        if self.offer:
            self.box.short = self.box.disk_short()
            every(IDENTITY_CHECK_S, self.look_at_compilers)
            every(DISK_CHECK_S, self.look_at_disk)

    def save_state(self, _now=0, patience_s=0):
        """With patience, at the end, this waits for it."""
        self.loop.collect()
        text = json.dumps(self.statistics.to_dict())            # dump() has no use of the C encoder
        saved = threading.Event()

        def save():
            save_state(self.config.state, text, self.loop.log)
            saved.set()
        if self.loop.apart("state", save, lambda _: None):
            saved.wait(patience_s)

    def look_at_disk(self, _now=0):
        """One that does not answer holds no job."""
        if not self.loop.apart("disk", self.box.disk_short, lambda short: setattr(self.box, "short", short)):
            self.box.short = True

    def look_at_program(self, _now=0):
        self.loop.apart("program", client_start, lambda found: setattr(self, "client_start", found))

    def look_at_compilers(self, _now=0):
        self.loop.apart("compilers", self.offer.look, self.compilers_seen)

    def compilers_seen(self, found):
        if self.offer.take(found):
            self.loop.log("info", "compilers looked at again: others are offered")
            self.on_offer()


class Daemon:
    """Puts the parts together, and carries out what the scheduler decides."""

    def __init__(self, config):
        """`config`: the parsed options. Raises StartError, ContainmentError."""
        self.config = config
        self.started = time.monotonic()
        self.spawner = self.server = self.view = None
        self.box = Box(config.procfs, config.tmpdir)
        slots = config.slots or self.box.cores
        settings = SpawnSettings(config.user, config.nice, config.job_timeout, config.contain, config.tmpdir,
                                 [os.fsencode(folder) for folder in config.compilers], config.max_job_mb << 20)
        self.loop = Loop(config.log_level, config.log_file)
        if config.allow:
            self.spawner = Spawner.start(settings)  # before any socket or thread exists
        self.instance = os.urandom(INSTANCE_BYTES)
        self.statistics = load_state(config.state, self.loop.log)
        self.scheduler = Scheduler(self.statistics, slots, self.box.cores, random.Random())
        self.admission = Admission(slots, self.statistics.memory)
        self.neighbours = Neighbours(self.box.boot, self.instance)
        self.trust = Trust(config)
        self.station = Station(config, self.box, self.scheduler, self.admission, self.neighbours, self.spawner)
        self.reports = Reports(self.loop, self.scheduler, self.trust, self.neighbours, self.station.load)
        self.asker = Asker(self.loop, self.scheduler, self.instance, self.trust)
        self.hub = Hub(self.loop, self.scheduler, self.answer, self.asker)
        self.upkeep = Upkeep(config, self.loop, self.box, self.statistics)
        self.directory = Directory(config, self.loop, self.scheduler, self.trust, self.reports.zones)
        self.doors = Doors(config)
        self.stopping = self.settling = False
        self.stop_at = None
        try:
            self.trust.load_secret()                # after the spawner was forked, which has no need of it
            self.doors.open(serving=bool(self.spawner))
            self.directory.load()
        except BaseException:
            self.close()
            raise
        self.open_for_business()
        self.view = View(self.scheduler, self.admission, self.server, self.reports, self.facts, self.set_draining,
                         lambda: self.hub.identities)
        self.set_timers()

    def open_for_business(self):
        """Put the open sockets into the loop."""
        doors, watch, reading = self.doors, self.loop.watch, selectors.EVENT_READ
        if self.spawner:
            offer = Offer(self.config.compilers, self.spawner.may_clang, self.loop.log)
            if not offer.by_name:
                self.loop.log("warning", "no compiler is found to offer, %s: jobs will be refused" % (
                    "in " + " ".join(self.config.compilers) if self.config.compilers else "on PATH"))
            self.server = JobServer(self.loop, self.admission, self.spawner, offer, self.trust, self.reports.audience,
                                    self.config.max_job_mb << 20, self.config.job_timeout)
            self.server.on_change, self.server.on_served = self.slots_changed, self.station.served
            self.server.on_exchange, self.upkeep.offer = self.upkeep.look_at_compilers, offer
            self.upkeep.on_offer = lambda: setattr(self.reports, "next_at", self.loop.now())
            self.station.server, self.station.port = self.server, doors.bound[0][1]
            watch(self.spawner, reading, self.server.on_spawner)
            for sock in doors.tcp:
                watch(sock, reading, lambda _, sock=sock: self.server.gate.accept(sock, self.server))
        self.reports.sockets = doors.udp
        self.reports.broadcast = [(sock, (self.config.broadcast, doors.bound[0][1])) for sock in doors.udp
                                  if self.config.broadcast and sock.family == socket.AF_INET]
        for sock in doors.udp + doors.ears:
            watch(sock, reading, lambda _, sock=sock: self.reports.on_readable(sock))
        watch(doors.unix, reading, lambda _: self.hub.accept(doors.unix))

    # -- time

    def set_timers(self):
        every = self.loop.every
        every(CAPACITY_INTERVAL_S, self.station.measure)
        every(CAPACITY_INTERVAL_S, self.scheduler.tick)
        every(0.5, self.sweep)
        every(PING_INTERVAL_S, lambda _: self.hub.ping())
        every(RESOLVE_AGAIN_S, self.directory.resolve_again)
        every(5.0, lambda _: self.check())
        self.upkeep.begin()
        self.loop.settle, self.loop.on_gap = self.settle, self.forgive
        self.loop.on_no_descriptors = self.shed
        self.spare = SpareDescriptor()
        self.station.measure(self.loop.now())

    def sweep(self, now):
        self.asker.sweep(now)
        if self.server:
            self.server.sweep(now)

    # -- decisions

    def slots_changed(self):
        """The server has taken or given back a slot."""
        self.server.grant_next()
        self.reports.changed(self.station.running(), self.box.cores, self.loop.now())

    def settle(self):
        """Carry out what the scheduler wants until it wants nothing more."""
        if self.settling:
            return
        self.settling = True
        try:
            while True:
                self.scheduler.pump(self.loop.now())
                if not self.scheduler.actions:
                    break
                actions, self.scheduler.actions = self.scheduler.actions, []
                for action in actions:              # one that fails takes no other with it
                    self.loop.call(None, lambda action: self.perform(*action), action)
        finally:
            self.settling = False
        self.hub.greet()
        self.reports.ask_if_wanted(self.loop.now())
        self.admission.local_running = len(self.scheduler.locals.holders)

    def perform(self, what, subject, request=None):
        if what == "ask":
            self.asker.ask(subject)
        elif what == "withdraw":
            self.asker.withdraw(subject)
        elif subject.session.job is not subject:    # its client went while this was decided
            if what == "socket":
                request.connection.close()
        elif what == "socket":
            subject.session.send_socket(request)
        elif what == "turn":
            subject.session.send_turn()
        else:
            subject.session.send_local()

    def answer(self, command, arguments, uid):
        return self.view.answer(command, arguments, uid, self.loop.now())

    def facts(self):
        return {"daemon": {"address": str(self.doors.bound[0]), "socket": self.config.socket, "pid": os.getpid(),
                           "uptime_s": round(time.monotonic() - self.started, 1),
                           "accepting": bool(self.server) and not self.admission.refusal,
                           "client_start": self.upkeep.client_start},
                "warnings": self.directory.listing.warnings,
                "memory_available_kb": self.station.available_kb,
                "contained": self.spawner.containment if self.spawner else None}

    def reload(self):
        """SIGHUP: another key is used from here on; hosts that the list has gained are used, those that it has lost get
        no new jobs. What cannot be read stays as it was."""
        for load in (self.trust.load_secret, self.directory.load):
            try:
                load()
            except StartError as error:
                self.loop.log("warning", str(error))

    # -- ends

    def set_draining(self, on):
        self.station.draining = on
        self.loop.log("info", "draining" if on else "taking jobs again")
        self.station.measure(self.loop.now())
        self.reports.next_at = self.loop.now()

    def shed(self):
        """Out of descriptors: the connection that has been idle longest goes, and one that waits is accepted to be
        closed, or it would wake the loop for ever."""
        self.loop.log("warning", "out of file descriptors: raise the hard limit (ulimit -Hn, LimitNOFILE=)")
        if self.server:
            self.server.gate.shed()
        self.spare.turn_away([self.doors.unix] + self.doors.tcp)

    def check(self):
        """Conservation. A leak is a bug of ours, reported by name; the daemon goes on."""
        try:
            self.scheduler.check()
            if self.server:
                self.server.check()
        except AssertionError as error:
            self.loop.log("error", "bug: books do not balance: %s" % error)

    def run(self):
        """Until told to stop. Exit status."""
        loop, reports = self.loop, self.reports
        loop.log("info", "serving on %s, socket %s, %d slots" % (
            " and ".join(map(str, self.doors.bound)) + ("" if self.server else " (load reports only)"),
            self.config.socket, self.scheduler.slots))
        notify_manager(b"READY=1")
        try:
            while not (self.stopping and self.may_end()):
                loop.turn(reports.next_at)
                now = loop.now()
                if now >= reports.next_at:
                    loop.call(None, reports.announce, now)
        except SpawnerGone as error:
            loop.log("error", "%s: its compilers are killed, this daemon ends" % error)
            self.spawner.kill_known_groups()
            return 1
        return 0

    def forgive(self, gap):
        """The process stood still: nobody else went silent meanwhile."""
        self.scheduler.forgive(gap)
        if self.server:
            for connection in self.server.connections:
                connection.deadline += gap
                connection.begun += gap

    def begin_stop(self):
        """SIGTERM: no new jobs, those that run may finish. Clients that wait are sent home at once."""
        if self.stopping:
            self.stop_at = self.loop.now()              # the second time: now
            return
        self.stopping, self.stop_at = True, self.loop.now() + DRAIN_LIMIT_S
        notify_manager(b"STOPPING=1")
        self.set_draining(True)
        self.loop.unwatch(self.doors.unix)
        self.doors.close_unix()
        for session in list(self.hub.sessions):
            if session.job is None or session.job.state != "remote":
                session.end()
        self.reports.announce(self.loop.now())

    def may_end(self):
        busy = self.admission.holders or self.server and any(c.state == "replying" for c in self.server.connections)
        return not busy or self.loop.now() >= self.stop_at

    def close(self):
        """Give everything back."""
        if self.view:
            if self.doors.unix:
                self.loop.unwatch(self.doors.unix)
            if self.server:
                self.server.close_all()
            self.hub.close_all()
            self.check()
            self.upkeep.save_state(patience_s=STATE_PATIENCE_S)
        if self.spawner:
            self.spawner.stop()
        self.doors.close()


def client_part(source):
    """What the client needs of this program: the statements that client_main() reaches by name, as a syntax tree."""
    import ast
    body, binding = ast.parse(source).body, {}              # name: the statements that bind it
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else ()
        names = [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else [
            name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        for name in names:
            binding.setdefault(name, []).append(node)
    kept, found = set(), binding["client_main"] + [node for node in body if isinstance(node, (ast.Import, ast.Expr))]
    while found:
        node = found.pop()
        if node not in kept:
            kept.add(node)
            found += [one for name in ast.walk(node) if isinstance(name, ast.Name) for one in binding.get(name.id, ())]
    return ast.Module([node for node in body if node in kept], [])


def without_lines(code):
    """Without the table of line numbers, a fifth of it, which only tracebacks need: 0.1 ms of a client's start."""
    table = "co_linetable" if hasattr(code, "co_linetable") else "co_lnotab"
    parts = tuple(without_lines(part) if isinstance(part, type(code)) else part for part in code.co_consts)
    return code.replace(co_consts=parts, **{table: b""})


def client_cache():
    """(path of the client's compiled part, the stamp that it must bear): what the header of this file looks for."""
    import importlib.util
    path = os.path.realpath(__file__)
    found = os.stat(path)
    name = os.path.join(os.path.dirname(path), "__pycache__", "client." + sys.implementation.cache_tag)
    return name, (importlib.util.MAGIC_NUMBER, found.st_size, found.st_mtime_ns)


def client_start():
    """Whether a client's start finds its part compiled: "cached", or "reparsed" (3 to 40 ms more a start)."""
    import marshal
    try:
        name, stamp = client_cache()
        with open(name, "rb") as file:
            return "cached" if marshal.load(file)[0] == stamp else "reparsed"
    except (OSError, EOFError, TypeError, ValueError):
        return "reparsed"


def compile_this_file():
    """Leave the compiled parts beside the program, for clients that may not write there."""
    import marshal
    import py_compile
    path = os.path.realpath(__file__)
    try:
        py_compile.compile(path, doraise=True)
        name, stamp = client_cache()
        with open(path, encoding="utf-8") as file:
            code = without_lines(compile(client_part(file.read()), path, "exec", dont_inherit=True))
        with open(name + ".new", "wb") as file:
            file.write(marshal.dumps((stamp, code)))
        os.replace(name + ".new", name)
    except (OSError, py_compile.PyCompileError):
        pass                                        # `status` shows it as reparsed


def compile_apart():
    """The same in a process of its own: it takes 50 MB, most of which a daemon would keep."""
    pid = os.fork()
    if not pid:
        try:
            compile_this_file()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def notify_manager(state):
    """sd_notify(3), where a service manager asks for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(state, socket.MSG_DONTWAIT, "\0" + address[1:] if address.startswith("@") else address)
            except OSError:
                pass


def watch_signals(daemon):
    """Signals arrive as bytes on a socket pair, so that they are dealt with between events."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno())

    def on_stop(*_):
        """Should the loop not come round to it, the kernel ends this process: the alarm needs no code of ours."""
        signal.setitimer(signal.ITIMER_REAL, STOP_LIMIT_S)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)

    def on_readable(_events):
        for number in ours.recv(64):
            if number == signal.SIGHUP:
                daemon.loop.reopen_log()
                daemon.reload()
            else:
                daemon.begin_stop()
    daemon.loop.watch(ours, selectors.EVENT_READ, on_readable)
    return theirs


def raise_descriptor_limit():
    """To the hard limit, which is the admin's word."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):               # macOS has a lower one still
            pass


def run_daemon(config):
    """Start, run, end. Exit status: 0, 1 with a line on stderr."""
    raise_descriptor_limit()
    if client_start() != "cached":
        compile_apart()
    report = detach() if config.detach else None

    def give_up(error):
        if report is not None:
            os.write(report, str(error).encode())
        else:
            print("distcc_lm: %s" % error, file=sys.stderr)
        return 1
    try:
        daemon = Daemon(config)
    except (StartError, ContainmentError) as error:
        return give_up(error)
    try:
        signals = watch_signals(daemon)
        if config.pid_file:
            write_pid_file(config.pid_file)
        if report is not None:
            os.write(report, b"ok")
            os.close(report)
            report = None
        return daemon.run()
    except (OSError, StartError) as error:
        return give_up(error)
    finally:
        daemon.close()
        signal.set_wakeup_fd(-1)
        signals.close()
        if config.pid_file:
            try:
                os.unlink(config.pid_file)
            except OSError:
                pass


def write_pid_file(path):
    try:
        with open(path + ".new", "w") as file:
            file.write("%d\n" % os.getpid())
        os.replace(path + ".new", path)
    except OSError as error:
        raise StartError("--pid-file %s: %s" % (path, error.strerror)) from None


def detach():
    """Fork; the parent waits for the child's word and exits. In the child: the descriptor to report to."""
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        with open(read_end, "rb") as file:
            said = file.read()
        if said != b"ok":
            reason = said.decode(errors="replace") or "the daemon ended while starting"
            print("distcc_lm: %s" % reason, file=sys.stderr)
        sys.stderr.flush()
        os._exit(0 if said == b"ok" else 1)
    os.close(read_end)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)          # now, so that the spawner does not hold the caller's pipes open
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    return write_end


# ==== 11. Client ====================================================================================================
# `cc`: one process per compile, so every millisecond counts: posix instead of os, _socket instead of socket (+7 ms),
# select only once there is something to wait for. Uses 1 to 4. It never changes a result: whatever goes wrong with
# the farm ends in the plain compile, by exec.

MEMFD = hasattr(posix, "memfd_create")
LAUNCHER = "distcc_lm.py"
# What links by compilers' names may lead to. CMake, and PATH where ccache is set up, name its links.
STAND_INS = frozenset((LAUNCHER, "ccache", "distcc", "icecc", "sccache"))
IGNORED_BY_PYTHON = [13, 25]        # SIGPIPE, SIGXFSZ: exec would hand that on


class Interrupted(BaseException):
    """A signal that ends the client: temporaries go, then it dies of the same signal."""

    def __init__(self, number):
        self.number = number


class DaemonGone(Exception):
    """The daemon fell silent, cannot be reached, or has no place for this client."""


class DaemonClosed(DaemonGone):
    """The daemon ended the conversation without a word: it may be restarting."""


class HostFailed(Exception):
    """The job socket gave no object: (reason name, text) for the daemon."""


def encode_system(text):
    """Back to the very bytes that came from argv or the environment."""
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")


def decode_system(data):
    """The other way."""
    return data.decode(sys.getfilesystemencoding(), "surrogateescape")


def hex_digest(data):
    try:
        from _blake2 import blake2b                 # 0.1 ms; hashlib would cost 5
    except ImportError:
        from hashlib import blake2b
    return blake2b(data, digest_size=16).hexdigest()


def read_all(fd, size):
    """Everything of a file that was written through this descriptor."""
    parts, at = [], 0
    while at < size:
        part = posix.pread(fd, min(size - at, 1 << 24), at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view):]


def scratch_file(name):
    """Descriptor of an unnamed file in memory (Linux), else of a file without a name in the temp folder."""
    if MEMFD:
        return posix.memfd_create(name)
    path = "%s/distcc_lm-%d-%s" % (posix.environ.get(b"TMPDIR", b"/tmp").decode(), posix.getpid(), name)
    fd = posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    posix.unlink(path)
    return fd


def compressed(fd, size):
    """(descriptor, size) of a scratch file with what the file holds, by zlib: level 1 makes a quarter of it."""
    import zlib                                     # 1 ms, and only over slow links
    result, engine, total = scratch_file("zlib"), zlib.compressobj(1), 0
    for at in range(0, size, 1 << 20):
        block = engine.compress(posix.pread(fd, min(size - at, 1 << 20), at))
        write_all(result, block)
        total += len(block)
    block = engine.flush()
    write_all(result, block)
    return result, total + len(block)


def refusal_text(fields):
    """Of a NOPE."""
    return b": ".join(fields).decode("utf-8", "replace")


def read_file_of_unknown_size(path):
    fd, parts = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC), []
    while not parts or parts[-1]:
        parts.append(posix.read(fd, 1 << 16))
    posix.close(fd)
    return b"".join(parts)


def kernel_uids():
    """(this process's uid as SO_PEERCRED gives it to us, and as it is outside of the user namespace):
    fakeroot and `unshare -r` make root of everybody, by name."""
    uid = posix.getuid()
    if uid:
        return uid, uid
    try:
        status, spans = (read_file_of_unknown_size("/proc/self/" + name) for name in ("status", "uid_map"))
        uid = int(status.partition(b"\nUid:")[2].split()[0])
        for first, outside, count in (map(int, line.split()) for line in spans.splitlines()):
            if first <= uid < first + count:
                return uid, outside + uid - first
    except (OSError, ValueError, IndexError):
        pass
    return uid, uid


class DaemonLink:
    """The connection to this box's daemon. receive() deals with pings and takes the passed descriptor along."""

    def __init__(self, path):
        import _socket                              # socket.py would cost 7 ms more
        self.module = _socket
        sock = self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.settimeout(0)                          # a full backlog answers EAGAIN: then it is done locally
        try:
            sock.connect(path)
        except OSError as error:
            raise DaemonGone("%s: %s" % (path, error.strerror)) from None
        if not self.trusted(path):
            raise DaemonGone("%s: served by another user" % path)
        self.decoder, self.passed, self.backlog = Decoder(decode_fields()), -1, b""
        self.patience = HELLO_TIMEOUT_S

    @classmethod
    def find(cls, paths):
        """The first that answers. Raises DaemonGone."""
        trouble = []
        for path in paths:
            try:
                return cls(path)
            except (DaemonGone, OSError) as error:
                trouble.append(str(error))
        raise DaemonGone("; ".join(trouble))

    def trusted(self, path):
        """The daemon must be root's, one's own, or the owner's of a root-made /run/distcc_lm: it gets to see the
        source and says where the object comes from."""
        if not hasattr(self.module, "SO_PEERCRED"):
            return posix.stat(path).st_uid in (0, posix.getuid())
        found = self.sock.getsockopt(self.module.SOL_SOCKET, self.module.SO_PEERCRED, 12)
        uid = int.from_bytes(found[4:8], sys.byteorder)
        if uid in (0, posix.getuid()) or uid == kernel_uids()[0]:
            return True
        if path != SYSTEM_SOCKET:
            return False
        # In a user namespace root has the uid of nobody: it is known by the root folder, which is its own.
        folder, above, root = (posix.stat(name).st_uid for name in (SYSTEM_SOCKET.rpartition("/")[0], "/run", "/"))
        return folder == uid and above == root

    def fileno(self):
        return self.sock.fileno()

    def send(self, name, *fields):
        """TooLarge, and nothing sent, where the daemon would not take it."""
        message = encode_fields(name, *fields)
        if len(message) - TOKEN_BYTES > MAX_CLIENT_MESSAGE_BYTES:
            raise TooLarge("%s of %d bytes" % (name.decode(), len(message)))
        self.sock.settimeout(SILENCE_TIMEOUT_S)
        try:
            self.sock.sendall(message)
        except self.module.timeout as error:
            raise DaemonGone(str(error)) from None
        except OSError as error:                    # what it said before it closed comes first
            said = self.receive(wait=False)
            if said and said[0] == b"NOPE":
                raise DaemonGone(refusal_text(said[1])) from None
            raise DaemonClosed(str(error)) from None

    def receive(self, wait=True):
        """(name, fields) of the next message that is no ping; None if there is none and `wait` is false."""
        while True:
            if self.decoder.feed(self.backlog):
                message, self.backlog = self.decoder.result, self.decoder.rest()
                self.decoder = Decoder(decode_fields())
                self.patience = SILENCE_TIMEOUT_S
                if message[0] not in (b"PING", b"WAIT"):
                    return message
                continue
            self.backlog = b""
            if not self.fill(wait):
                return None

    def fill(self, wait):
        self.sock.settimeout(self.patience if wait else 0)
        room = self.module.CMSG_SPACE(4)
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, room, getattr(self.module, "MSG_CMSG_CLOEXEC", 0))
        except BlockingIOError:
            return False
        except self.module.timeout as error:        # nothing came, and nothing was left unread
            raise DaemonGone(str(error)) from None
        except OSError as error:
            raise DaemonClosed(str(error)) from None
        for level, kind, passed in ancillary:
            if level == self.module.SOL_SOCKET and kind == self.module.SCM_RIGHTS:
                if self.passed >= 0:
                    posix.close(self.passed)
                self.passed = int.from_bytes(passed[:4], sys.byteorder)
                posix.set_inheritable(self.passed, False)
        if not data:
            raise DaemonClosed("the daemon closed the connection")
        self.backlog = data
        return True

    def ask_about(self, keys):
        """(whether one of these files is odd, the numbers of those that the daemon does not know), for SourceText."""
        self.send(b"SEEN", "".join(keys))
        name, fields = self.receive()
        if name != b"FILE":
            raise WireError("%r in answer to SEEN" % name)
        return fields[0] == b"1", [int(number) for number in fields[1].split()]

    def take_socket(self):
        """The descriptor that came with the last SOCK; it is the caller's now."""
        fd, self.passed = self.passed, -1
        if fd < 0:
            raise DaemonGone("SOCK without a socket")
        posix.set_blocking(fd, False)
        return fd


class JobSocket:
    """One distcc job over a passed socket: request out, reply in, while the daemon may call it off."""

    def __init__(self, fd, link, kind, host=b""):
        self.fd, self.link = fd, link
        self.host = host                                        # its name, in words to the daemon
        self.plain, self.version = kind.startswith(b"distccd"), 2 if kind == b"distccd,lzo" else 1
        self.compresses = kind == b"peer,zlib"
        self.sent = self.received = 0

    def close(self):
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def wait(self, write):
        """Until the socket is ready; its poll events. Raises CalledOff when the daemon has something to say, HostFailed
        when nothing moves in the midst of a message. How long a compile may take is for the daemon to judge."""
        import select                               # 1 ms, but only where there is time to kill
        import time
        events = select.POLLOUT | select.POLLIN if write else select.POLLIN
        begun, under_way = time.monotonic(), write or self.received
        while True:
            poll = select.poll()
            poll.register(self.fd, events)
            if self.link:
                poll.register(self.link.fileno(), select.POLLIN)
            limit = PROGRESS_S if under_way else None if self.link else REPLY_TIMEOUT_S
            left = None if limit is None else max(0.0, begun + limit - time.monotonic()) * 1000
            ready = dict(poll.poll(left))
            if self.fd in ready:
                return ready[self.fd]
            if not ready:
                raise HostFailed("stalled", "nothing for %d s" % limit)
            self.hear_daemon()

    def hear_daemon(self):
        try:
            message = self.link.receive(wait=False)
        except (DaemonGone, WireError):
            self.link = None                        # this job ends without the daemon
            return
        if message is not None:
            raise CalledOff(*message)

    def exchange(self, text):
        """Send the job of a SourceText; the Reply, up to the object. Raises HostFailed."""
        header = encode_argv(text.remote_argv(own=not self.plain), self.version)
        if self.compresses and text.size:
            self.send(header, -1, 0)                # before the reservation lapses; compressing takes 10 ms a MB
            fd, size = compressed(text.fd, text.size)
            self.send(encode_size(size), fd, size)
            posix.close(fd)
        else:
            self.send(header + encode_size(text.size, self.version), text.fd, text.size)
        if self.version == 2 and text.size:
            self.send(LZO_END, -1, 0)
        reply = self.decode(decode_reply(self.version))
        if reply.refusal:
            raise HostFailed(*reply.refusal)
        return reply

    def receive(self, fd, size):
        """The object, into a file as it comes. Raises HostFailed, and OSError of the file."""
        if self.version == 2:
            return self.receive_lzo(fd, size)
        buffer = memoryview(bytearray(min(size, 1 << 17)))      # one for all: new pages cost more than the copying
        while size:
            got = self.read_into(buffer[:min(size, len(buffer))])
            if not got:
                raise HostFailed("stalled", "a short object")
            write_all(fd, buffer[:got])
            size -= got
        return None

    def receive_lzo(self, fd, size):
        """The same, of protocol 2. It is unpacked here, as distcc does: 30 MB/s."""
        packed = bytearray()
        while len(packed) < size:
            data = self.read(min(size - len(packed), 1 << 18))
            if not data:
                raise HostFailed("stalled", "a short object")
            packed += data
        try:
            if size:
                lzo_unpack(packed, lambda block: write_all(fd, block), 1 << 32)
        except WireError as error:
            raise HostFailed("garbage", str(error)) from None

    def send(self, header, source_fd, size):
        """The request: header, then the source from its file, by sendfile."""
        view, at = memoryview(header), 0
        while view or at < size:
            try:
                if view:
                    n = posix.write(self.fd, view)
                    view = view[n:]
                else:
                    n = self.send_file(source_fd, at, size - at)
                    at += n
                self.sent += n
            except BlockingIOError:
                import select
                if self.wait(write=True) & select.POLLIN:
                    self.early_answer()
            except OSError as error:                # what was said before the connection broke comes first
                self.early_answer()
                raise HostFailed("closed", error.strerror) from None

    def send_file(self, source_fd, at, count):
        if sys.platform == "linux":
            return posix.sendfile(self.fd, source_fd, at, min(count, 1 << 24))
        return posix.write(self.fd, posix.pread(source_fd, min(count, 1 << 18), at))

    def early_answer(self):
        """The server speaks before the request is whole: an LMNO, or the end."""
        decoder = Decoder(decode_reply())
        try:
            while not decoder.done:
                data = posix.read(self.fd, min(decoder.missing(), 1 << 16))
                if not data:
                    break
                decoder.feed(data)
        except (OSError, WireError):
            pass
        if decoder.done and decoder.result.refusal:
            raise HostFailed(*decoder.result.refusal)
        raise HostFailed("closed", "before the request was whole")

    def read_into(self, buffer):
        """How many bytes came into it; 0 at the end."""
        while True:
            try:
                got = posix.readv(self.fd, [buffer])
            except BlockingIOError:
                self.wait(write=False)
                continue
            except OSError as error:
                raise HostFailed("closed", error.strerror) from None
            self.received += got
            return got

    def read(self, most):
        """Some bytes; b"" at the end."""
        buffer = bytearray(most)
        return bytes(buffer[:self.read_into(buffer)])

    def decode(self, generator):
        decoder = Decoder(generator)
        while not decoder.done:
            data = self.read(min(decoder.missing(), 1 << 16))   # of 64 MB of messages a few KB may be there each time
            if not data:
                raise HostFailed("closed", "before the answer" if not self.received else "in the middle of the answer")
            try:
                decoder.feed(data)
            except WireError as error:
                raise HostFailed("garbage", str(error)) from None
        return decoder.result


class CalledOff(Exception):
    """The daemon takes the job away from its host: its message (name, fields)."""


class NewFile:
    """A file that appears under its name only when it is whole: written beside it and renamed."""

    def __init__(self, path):
        folder, slash, name = path.rpartition("/")
        self.path, self.fd = path, -1
        # at most 255 bytes, and object and dependencies of one long name end differently
        self.temporary = "%s%s.%s.%d.tmp" % (folder, slash, name[-60:], posix.getpid())

    def open(self):
        """Apart from __init__, so that whoever discards it on a signal has it before the file exists."""
        self.fd = posix.open(self.temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o666)

    def finish(self):
        posix.close(self.fd)
        self.fd = -1
        posix.rename(self.temporary, self.path)
        self.temporary = None

    def discard(self):
        if self.fd >= 0:
            try:
                posix.close(self.fd)
            except OSError:                         # a full disk may say so only now
                pass
            self.fd = -1
        if self.temporary:
            try:
                posix.unlink(self.temporary)
            except OSError:
                pass


def found_at(path, look=posix.stat):
    """What stat says of a path; None where there is nothing."""
    try:
        return look(path)
    except OSError:
        return None


def of_another(folder):
    """Whether another user made it: what is in there may lead to a socket of root's or one's own that
    is no daemon's, or to locks that are never given back."""
    found = found_at(folder, posix.lstat)
    return found is not None and found.st_uid not in (0, posix.getuid())


def regular_or_absent(path, unlinked=False):
    """Whether a file may be put in place by rename, and nobody can tell: devices, links and fifos
    are written through, by the compiler itself, and so is a file with a mode or a second name of
    its own, unless the compiler would unlink it first."""
    found = found_at(path, posix.lstat)
    if found is None:
        return True
    if found.st_mode & 0o170000 != 0o100000 or not posix.access(path, posix.W_OK):
        return False
    if unlinked and found.st_size:                  # gas writes into an empty one
        return True
    umask = posix.umask(0o77)
    posix.umask(umask)
    return found.st_mode == 0o100666 & ~umask and found.st_nlink == 1


def readable_twice(path):
    """False for a fifo or a device, which the preprocessor would leave empty for a second look."""
    found = found_at(path)
    return found is None or found.st_mode & 0o170000 == 0o100000


def check_files(command):
    """RunLocally where the files that are there keep the command here. gcc refuses to write over
    its source, by whatever name; what else would be lost is for the compiler to lose."""
    if not readable_twice(command.source):
        raise RunLocally("stdin", command.source)
    found = [found_at(path) for path in (command.source, command.output, command.depfile or "")]
    files = [(each.st_dev, each.st_ino) for each in found if each]
    if len(set(files)) < len(files):
        raise RunLocally("same-file", command.output)
    # gas unlinks an old object, clang renames a new one; gcc writes into an old file of assembler.
    unlinked = command.family == "clang" or command.assemble == "-c"
    if not regular_or_absent(command.output, unlinked):
        raise RunLocally("output-special", command.output)


# What ends a process, sent by a terminal, a time limit or a watchdog: a temporary would stay.
ENDING = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGABRT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTERM", "SIGXCPU", "SIGVTALRM",
          "SIGPROF")


class Signals:
    """ENDING raise Interrupted in the client, unless its caller had them ignored."""

    def __init__(self, ignored):
        """ignored: of IGNORED_BY_PYTHON, those that the caller ignored, too."""
        import _signal                              # signal.py would cost 2 ms more
        self.module, self.caught = _signal, []
        self.defaults = [number for number in IGNORED_BY_PYTHON if str(number) not in ignored]

        def interrupt(number, _frame):
            raise Interrupted(number)
        for number in (getattr(_signal, name) for name in ENDING):
            if _signal.getsignal(number) != _signal.SIG_IGN:
                _signal.signal(number, interrupt)
                self.caught.append(number)

    def ignore(self):
        """A second ^C must not stop the tidying up after the first."""
        for number in self.caught:
            self.module.signal(number, self.module.SIG_IGN)

    def restore(self):
        """As a compiler would have them: what Python ignores and exec would hand on, too."""
        for number in self.caught + self.defaults:
            self.module.signal(number, self.module.SIG_DFL)

    def die(self, number):
        """End this process by a signal, for whoever waits for it."""
        try:
            self.module.signal(number, self.module.SIG_DFL)
        except (OSError, ValueError):               # SIGKILL
            pass
        posix.kill(posix.getpid(), number)
        return 128 + number


class Invocation:
    """The compiler command as it was given: which program it means, and how it is run here."""

    def __init__(self, words, environ, masquerade, signals):
        self.words, self.environ = words, environ           # words[0] names the compiler; environ: {bytes: bytes}
        self.masquerade, self.signals = masquerade, signals
        self.program = ""                                   # path of the compiler
        self.family, self.cxx = None, False

    def variable(self, name):
        value = self.environ.get(name.encode())
        return None if value is None else decode_system(value)

    def say(self, text):
        if self.environ.get(b"DISTCC_LM_VERBOSE") == b"1":
            self.complain(text)

    def complain(self, text):
        try:
            write_all(2, encode_system("distcc_lm: %s\n" % text))
        except OSError:
            pass

    # -- which program

    def takes_messages(self):
        """Whether the user prefers the remote compiler's own messages, without source lines, to a second compile."""
        return b"0" in (self.environ.get(b"DISTCC_LM_CARETS"), self.environ.get(b"DISTCC_LM_FALLBACK"))

    def find(self):
        """Look the compiler up, passing over STAND_INS: each of them looks for the next on PATH, and
        two would exec each other without end. False: there is none."""
        own, stand_in, ours = posix.stat(__file__), "", False
        for path, found in self.candidates():
            real = basename(real_path(path))
            this = found is not None and (found.st_ino, found.st_dev) == (own.st_ino, own.st_dev)
            if not this and real not in STAND_INS:
                self.program = path
                break
            self.masquerade = True                          # gcc finds its parts by argv[0]: it must not find us
            if this or real == LAUNCHER:
                ours = True
            else:
                stand_in = stand_in or path
        else:                                               # it may know of a compiler elsewhere
            self.program = "" if ours else stand_in
        self.know_family()
        return bool(self.program)

    def candidates(self):
        """(path, stat or None): what is named by its path, and what PATH has of that name."""
        if "/" in self.words[0]:
            yield self.words[0], found_at(self.words[0])
        yield from self.programs(basename(self.words[0]))

    def programs(self, name):
        """(path, stat) of each program of that name on PATH."""
        for folder in (self.variable("PATH") or "/bin:/usr/bin").split(":"):
            path = "%s/%s" % (folder or ".", name)
            try:
                found = posix.stat(path)
            except OSError:
                continue
            if found.st_mode & 0o170000 == 0o100000 and posix.access(path, posix.X_OK):
                yield path, found

    def know_family(self):
        """By what the links end in, since cc may be gcc or clang; by the name called whether clang means C++."""
        called, real = (family_of(path.rpartition("/")[2]) for path in (self.words[0], real_path(self.program)))
        if real:
            self.family, self.cxx = real[0], real[1] or bool(called and called[1])

    def key(self):
        """What the daemon remembers the compiler's identity by: path and four numbers. gcc runs the `as` on PATH, and
        the loader's variables decide which libraries both get."""
        found, stamp = posix.stat(self.program), 0
        if self.family == "gcc":
            stamp = next((program.st_mtime_ns + program.st_ino for _, program in self.programs("as")), 0)
        loader = sorted(item for item in self.environ.items() if item[0].startswith((b"LD_", b"DYLD_")))
        if loader:
            stamp += int(hex_digest(repr(loader).encode())[:12], 16)
        return "%s %d %d %d %d" % (self.program, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns + stamp)

    def identity(self):
        """Hex of the compiler's identity, "" where it is a script or wrapper, None where it does not answer: that may
        be due to this process's environment or limits, or pass."""
        fd = posix.open(self.program, posix.O_RDONLY | posix.O_CLOEXEC)
        head = posix.read(fd, 2)
        posix.close(fd)
        if head == b"#!":
            return ""
        text, path = self.output_of([self.program, *VERSION_WORDS]), encode_system(self.program)
        if is_wrapper(text, path, canonical_path(path, {})):
            return ""
        assembler = content = b""
        if self.family == "gcc":
            path = decode_system(self.output_of([self.program, "-print-prog-name=as"]).strip())
            if "/" not in path:
                path = next((path for path, _ in self.programs(path)), path)
            assembler = self.output_of([path, "--version"]) if path else b""
        if not text or self.family == "gcc" and not assembler:
            return None
        if assembler:
            try:
                content = read_file(path)
            except OSError:
                pass
        return identity_of(text, assembler, self.cxx, content).hex()

    def output_of(self, argv):
        """Both streams of a program under LC_ALL=C, without MAKEFLAGS, which gcc repeats in its -v where make runs
        jobs side by side; b"" where it fails."""
        fd = scratch_file("version")
        try:
            status = self.spawn(argv, {**self.environ, b"LC_ALL": b"C", b"MAKEFLAGS": b""}, [fd, fd])
            return read_all(fd, posix.fstat(fd).st_size) if status == 0 else b""
        except OSError:
            return b""
        finally:
            posix.close(fd)

    def folder(self):
        """The working folder as the compiler calls it: clang goes by PWD, where that is the same."""
        named = self.variable("PWD") if self.family == "clang" else None
        try:
            if named and named[0] == "/":
                there, here = posix.stat(named), posix.stat(".")
                if (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev):
                    return named
        except OSError:
            pass
        return posix.getcwd()

    def sockets(self):
        """Where to look for the daemon."""
        named = self.variable("DISTCC_LM_SOCKET")
        if named:
            return [named]
        paths = default_sockets(kernel_uids()[1], {"XDG_RUNTIME_DIR": self.variable("XDG_RUNTIME_DIR")})
        return [path for path in paths if path[:5] != "/tmp/" or not of_another(path.rpartition("/")[0])]

    def command(self):
        """What is to be compiled; RunLocally."""
        watched = {name: self.variable(name) for name in WATCHED_VARIABLES
                   if name.encode() in self.environ}
        command = analyze(self.words[1:], self.family, self.cxx, watched, read_at_file, posix.getcwd())
        check_files(command)
        return command

    # -- running it

    def argv(self):
        name = self.program if self.masquerade else self.words[0]
        return [name, *self.words[1:]]

    def spawn(self, argv, environ, streams=()):
        """Run a program to its end; its wait status. streams: descriptors for its stdout and stderr."""
        actions = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams, 1)]
        path = self.program if argv[0] == self.words[0] else argv[0]
        pid = posix.posix_spawn(path, argv, environ, file_actions=actions,
                                setsigdef=self.signals.defaults if self.signals else IGNORED_BY_PYTHON)
        try:
            return posix.waitpid(pid, 0)[1]
        except Interrupted as interrupted:              # perhaps this process alone, as by make when that is ended
            self.signals.ignore()
            try:
                posix.kill(pid, interrupted.number)
                posix.waitpid(pid, 0)
            except OSError:                             # it had ended just then
                pass
            raise

    def become(self):
        """exec the compiler. Returns an exit status only where that fails."""
        self.signals.restore()
        try:
            posix.execve(self.program, self.argv(), self.environ)
        except OSError as error:
            if error.errno == 8:                        # ENOEXEC: a script that does not say of what, so of sh, as for
                posix.execve("/bin/sh", ["sh", self.program, *self.words[1:]], self.environ)        # sh and make
            self.complain("%s: %s" % (self.program or self.words[0], error.strerror))
            return 127 if error.errno == 2 else 126

    def run_to_end(self):
        """The compiler as a child; its wait status."""
        try:
            return self.spawn(self.argv(), self.environ)
        except OSError as error:
            self.complain("%s: %s" % (self.program, error.strerror))
            return 126 << 8


class FilesRead:
    """The files that went into a text, as they are now. keys: 16 hex digits each, "" for a fifo or a device, which may
    not be read again. renamed: whether gcc may have written another name for one of them, its real path, which it does
    for headers of the system where that is shorter. OSError."""

    def __init__(self, paths):
        self.paths, self.keys, self.renamed = paths, [], False
        gains, known = {}, {}               # of a folder: by how much its real path is shorter; {path: its real path}
        for path in paths:
            folder, found = path.rpartition(b"/")[0], posix.lstat(path)
            if found.st_mode & 0o170000 == 0o120000:
                found = posix.stat(path)
                self.renamed |= len(canonical_path(path, known)) < len(path)
            elif folder not in gains:
                gains[folder] = len(folder) - len(canonical_path(folder, known)) if folder else 0
            self.keys.append("%016x" % (
                hash((found.st_ctime_ns, found.st_ino, found.st_size, found.st_dev)) & 0xffffffffffffffff)
                if found.st_mode & 0o170000 == 0o100000 else "")
        self.renamed |= max(gains.values(), default=0) > 0


def canonical_path(path, known):
    """As realpath(3) has it; for a path of bytes that exists. `known` keeps those of its folders: 0.2 ms. OSError."""
    full = path if path[:1] == b"/" else posix.getcwdb() + b"/" + path
    if full not in known:
        folder, _, name = full.rpartition(b"/")
        above = canonical_path(folder, known) if folder.strip(b"/") else b""
        if name in (b"", b"."):
            known[full] = above
        elif name == b"..":
            known[full] = above.rpartition(b"/")[0]
        else:
            try:
                link = posix.readlink(above + b"/" + name)
            except OSError:                 # no link
                known[full] = above + b"/" + name
            else:
                known[full] = canonical_path(link if link[:1] == b"/" else above + b"/" + link, known)
    return known[full]


def marked_files(text):
    """Names of the files in a text's line markers, each once; [] where one is written with escapes."""
    names, at = {}, 0 if text[:2] == b"# " else text.find(b"\n# ") + 1
    while at or text[:2] == b"# ":
        line = text[at:text.find(b"\n", at)]
        if line[2:3].isdigit():                             # not "# define"
            names[line[line.find(b'"') + 1:line.rfind(b'"')]] = True
        at = text.find(b"\n# ", at) + 1
        if not at:
            break
    found = [name for name in names if name and name[:1] != b"<" and not name.endswith(b"//")]
    return [] if any(b"\\" in name for name in found) else found


def has_precompiled(text, folders):
    """Whether gcc would take a precompiled header, NAME.gch, for the first header of this text; with -E it does not.
    stdc-predef.h comes before it. In each of its folders for headers gcc looks for NAME.gch first."""
    at = 0
    for _ in range(2):
        at = text.find(b'" 1', at + 1)                      # '# 1 "NAME" 1', perhaps with 3 4
        if at < 0:
            break
        path = bytes(text[text.rfind(b'"', 0, at) + 1:at])
        names = {path[len(folder) + 1:] for folder in folders if path.startswith(folder + b"/")}
        for place in (path, *(b"%s/%s" % (folder, name) for name in names for folder in folders)):
            try:
                posix.stat(place + b".gch")
                return True
            except (OSError, ValueError):
                continue
    return False


class SourceText:
    """Stage 1: the preprocessed source, in memory, and the dependencies that go with it."""

    def __init__(self, invocation, command, ask):
        self.invocation, self.command = invocation, command
        self.ask = ask                      # (file keys) -> (whether one is odd, numbers of those not known yet)
        self.fd = self.depend_fd = self.list_fd = -1
        self.files = None                   # FilesRead, once it was asked for
        self.size = self.milliseconds = 0
        self.said = b""                     # messages of a preprocessor that ended well
        self.mode = MODE_NAMES[MODE_PLAIN]
        self.plain_files, self.odd_files = [], []           # keys of files that were looked into
        self.recipe, self.new_recipe = NO_RECIPE, ""        # the daemon's, for this mode; what it shall remember

    def make(self, mode):
        """Fill it in that mode, unless it is. The name of a reason where the compile must stay here, else None. Where
        "directives" does not carry this source it is made in plain mode at once, and `mode` says so."""
        self.new_recipe = ""
        if self.fd >= 0 and mode == self.mode:
            return None
        import time
        started = time.monotonic()
        reason = self.make_once(mode)
        if reason and mode == "directives" and reason != "pch":
            reason = self.make_once("plain")
        self.milliseconds = int((time.monotonic() - started) * 1000)
        return reason

    def make_once(self, mode):
        self.discard()
        command, self.mode = self.command, mode
        if command.preprocessed:
            self.fd = posix.open(command.source, posix.O_RDONLY | posix.O_CLOEXEC)
        elif mode == "plain" and command.plain_bar:
            return "sanitizer"
        elif self.command_too_long():
            return "long-command"
        elif not self.preprocess():
            return "preprocessor-messages" if self.said else "preprocessor"
        self.size = posix.fstat(self.fd).st_size
        if self.size >> 32:                                 # distcc's protocol has 32 bits for it
            return "too-large"
        if command.family == "gcc" and not command.preprocessed and has_precompiled(
                posix.pread(self.fd, 1 << 16, 0), self.header_folders()):
            return "pch"
        if mode == "directives":
            return None if self.made_of_plain_files() else "directives-only"
        for at in range(0, max(self.size, 1), TEXT_WINDOW_BYTES - TEXT_OVERLAP_BYTES):
            refusal = content_refusal(posix.pread(self.fd, TEXT_WINDOW_BYTES, at), command, mode,
                                      not at, read_file)
            if refusal or at + TEXT_WINDOW_BYTES >= self.size:
                return refusal and refusal[0]
        return None

    def header_folders(self):
        """Where gcc looks for headers before it looks in the system's."""
        found = [encode_system(path) for path in self.command.header_folders()]
        return [path for path in found + self.invocation.environ.get(b"CPATH", b"").split(b":") if path]

    def preprocess(self):
        """True if the preprocessor ended well and without a message that matters: by the recipe if there is one, else
        by gcc."""
        recipe, self.recipe = self.recipe, NO_RECIPE        # a second try is in another mode
        if recipe not in (NO_RECIPE, RECIPE_WANTED):
            try:
                if self.by_recipe(recipe.split("\n")):
                    return True
            except OSError:                                 # gcc was replaced meanwhile
                pass
            self.new_recipe = NO_RECIPE                     # it may be to blame
            self.discard()
        done = self.stage_1(self.driver_argv())
        if done and recipe == RECIPE_WANTED:
            stand_in = stand_in_for(self.command.source)
            trace = self.invocation.output_of(self.driver_argv(stand_in) + ["-###"])
            self.new_recipe = make_recipe(decode_system(trace), stand_in, self.mode)
        return done

    def by_recipe(self, words):
        """As stage_1(). Where the names of headers as found are not those that gcc writes, it is done again with these,
        and the recipe told so."""
        if not self.stage_1(words):
            return False
        if words[-1] != AS_FOUND:
            return True
        try:
            if not self.files_read().renamed:
                return True
            self.new_recipe = "\n".join(words[:-1])
        except OSError:                                     # of this source it cannot be told
            pass
        self.discard()
        return self.stage_1(words[:-1])

    def driver_argv(self, stand_in=None):
        """gcc's command for stage 1, with STAND_INs for our own files, and one for the source and target if given."""
        args = self.command.preprocess_args(
            self.mode, None if self.command.depfile is None else STAND_IN_DEPFILE, stand_in)
        if self.mode == "directives" and not self.command.depfile_variable and not any(
                word.startswith("-M") for word in args):        # each would keep gcc from looking at the variable
            args += ["-MD", "-MT", "x", "-MF", STAND_IN_LIST]
        return self.invocation.argv()[:1] + args

    def stage_1(self, argv):
        """Run it. Whether it ended well and without a message, or with one that will be shown."""
        command, environ = self.command, dict(self.invocation.environ)
        if command.family == "gcc" and not self.invocation.takes_messages():
            environ[b"LC_ALL"] = b"C"                       # its words are shown to nobody: 0.1 ms
        names = {STAND_IN_SOURCE: command.source, STAND_IN_BASE: basename(command.source),
                 STAND_IN_TARGET: command.target}
        self.fd, messages = scratch_file("text"), scratch_file("messages")
        if command.depfile is not None:
            self.depend_fd, names[STAND_IN_DEPFILE] = place = self.inherited_file("dependencies")
            for name, value in command.preprocess_environ(place[1]).items():
                environ[encode_system(name)] = encode_system(value)
        if STAND_IN_LIST in argv:
            self.list_fd, names[STAND_IN_LIST] = self.inherited_file("files")
        try:
            status = self.invocation.spawn([names.get(word, word) for word in argv], environ, [self.fd, messages])
        except OSError:                                     # no more processes; the compiler says so itself
            status = -1
        for fd in (self.depend_fd, self.list_fd):
            if fd >= 0:
                posix.set_inheritable(fd, False)
        self.said = read_all(messages, posix.fstat(messages).st_size) if status == 0 else b""
        posix.close(messages)
        return status == 0 and (not self.said or self.invocation.takes_messages())

    def inherited_file(self, name):
        """(descriptor, path by which the preprocessor can write it)."""
        fd = scratch_file(name)
        posix.set_inheritable(fd, True)
        return fd, "/dev/fd/%d" % fd

    def made_of_plain_files(self):
        """Whether every file that went into the text is known, or now seen, to bear -fdirectives-only. The files are
        searched, not the text: gcc drops some of what matters (#pragma redefine_extname), and most are known: 3.5 ms
        less than searching 1.6 MB of text, 5 ms with C++'s 3 MB."""
        try:
            files = self.files_read()
        except OSError:                                     # #line names a file that is elsewhere, or one is gone
            return False
        if not 0 < len(files.paths) <= 3000 or not unremarkable(encode_system(self.command.flags_key)):
            return False                                    # the last: -DNOW=__TIME__
        if "" in files.keys:
            return unremarkable(read_all(self.fd, self.size))
        odd, unknown = self.ask(files.keys)
        for number in unknown:
            plain = unremarkable(read_file(files.paths[number]))
            (self.plain_files if plain else self.odd_files).append(files.keys[number])
        return not odd and not self.odd_files

    def files_read(self):
        if self.files is None:
            size = posix.fstat(self.fd).st_size
            self.files = FilesRead(self.listed_files() or marked_files(read_all(self.fd, size)))
        return self.files

    def listed_files(self):
        """The files that the preprocessor lists, where it was asked to and none has a blank or worse in its name."""
        text = read_all(self.list_fd, posix.fstat(self.list_fd).st_size) if self.list_fd >= 0 else b""
        if not text.startswith(b"x: ") or b"\\ " in text or b"\\#" in text or b"$$" in text:
            return []
        return text[3:].replace(b"\\\n", b" ").split()

    def command_too_long(self):
        """For one message to a server's spawner. Looked at closely only where it may be."""
        if len(self.command.flags_key) < MAX_ARGV_BYTES // 8:
            return False
        words = self.remote_argv(own=True)
        return len(words) > MAX_ARGUMENTS or sum(len(word) + 1 for word in words) > MAX_ARGV_BYTES

    def remote_argv(self, own):
        """Stage 2, for a server of ours or a plain distccd."""
        words = self.command.remote_args(self.mode, self.invocation.folder(), own)
        return [encode_system(word) for word in (self.invocation.words[0].rpartition("/")[2], *words)]

    def digest(self):
        """What a mishap of this text is remembered by: 1.5 ms a MB, so only where there was one."""
        return hex_digest(read_all(self.fd, self.size))

    def write_dependencies(self, outputs):
        """Put the dependency file in place; `outputs` gets the NewFile, to be discarded should this fail. OSError."""
        if self.depend_fd < 0:
            return
        path, appended = self.command.depfile, self.command.depfile_appended
        text = read_all(self.depend_fd, posix.fstat(self.depend_fd).st_size)
        if appended or not regular_or_absent(path):
            how = posix.O_APPEND if appended else posix.O_TRUNC
            fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_CLOEXEC | how, 0o666)
            write_all(fd, text)
            posix.close(fd)
            return
        new = NewFile(path)
        outputs.append(new)
        new.open()
        write_all(new.fd, text)
        new.finish()

    def discard(self):
        for fd in (self.fd, self.depend_fd, self.list_fd):
            if fd >= 0:
                posix.close(fd)
        self.fd = self.depend_fd = self.list_fd = -1
        self.files = None


def source_stamp(path):
    """A file as it is now."""
    try:
        found = posix.stat(path)
        return "%d %d %d" % (found.st_ino, found.st_size, found.st_ctime_ns)        # which nobody can set
    except OSError:
        return ""


def short_key(text):
    """It, or where it is long a digest of it."""
    return text.replace("\0", "\n") if len(text) <= LONG_COMMAND_BYTES else hex_digest(encode_system(text))


def show(text, reply):
    """What stage 1 said, unless stage 2 says it again, and what stage 2 said."""
    write_all(1, reply.stdout)
    write_all(2, (b"" if text.said in reply.stderr else text.said) + reply.stderr)


class Client:
    """One `cc` run. run() returns an exit status, or does not return at all (exec)."""

    def __init__(self, invocation):
        self.invocation, self.environ, self.say = invocation, invocation.environ, invocation.say
        self.stays = self.environ.get(b"DISTCC_LM_FALLBACK") == b"0"    # for tests: what may be distributed must be
        self.command = self.link = self.text = None
        self.outputs = []                                   # NewFiles to discard on any failure

    def run(self):
        """The whole of it. An exit status."""
        invocation = self.invocation
        if not invocation.find():
            invocation.complain("%s: command not found" % invocation.words[0])
            return 127
        if self.environ.get(b"DISTCC_LM_DISABLE") == b"1":
            return invocation.become()
        if invocation.family is None:
            return self.local("compiler-script", invocation.program)
        try:
            command = invocation.command()
        except RunLocally as refusal:
            return self.local(refusal.name, refusal.detail, refusal.heavy)
        self.command, self.text = command, SourceText(invocation, command, lambda keys: self.link.ask_about(keys))
        return self.run_farm()

    # -- local

    def local(self, reason, detail="", heavy=True):
        """The command is not distributed: a local slot where it is heavy, then the compiler itself."""
        self.say("local: %s %s" % (reason, detail))
        if not heavy or reason in ("stdin", "stdout"):      # a pipe may hang on a compile that waits: no waiting here
            return self.invocation.become()
        try:
            self.link = DaemonLink.find(self.invocation.sockets())
            self.link.send(b"HELO", CLIENT_VERSION, b"local", reason, self.invocation.words[-1][:4096])
            return self.await_local()
        except (DaemonGone, WireError) as error:
            self.say("no daemon: %s" % error)
            return self.invocation.become()

    def await_local(self):
        while True:
            name, fields = self.link.receive()
            if name == b"LOCL":
                return self.go_local(fields)
            if name == b"NOPE":
                raise DaemonGone(refusal_text(fields))

    def go_local(self, fields):
        reason = fields[0].decode("utf-8", "replace")
        self.say("local: " + reason)
        if self.command is not None and not self.may_fall_back(reason):
            return 1
        self.discard()
        return self.compile_and_tell() if fields[1:2] == [b"1"] else self.invocation.become()

    def compile_and_tell(self):
        """As a child, where the daemon wants to know the outcome or cannot watch this process. Ends as it did."""
        status = self.invocation.run_to_end()
        try:
            self.link.send(b"DONE", b"local-failed" if status else b"local-ok")
        except DaemonGone:
            pass
        if posix.WIFSIGNALED(status):
            return self.invocation.signals.die(posix.WTERMSIG(status))
        return posix.WEXITSTATUS(status)

    def may_fall_back(self, reason):
        """DISTCC_LM_FALLBACK=0, for tests, forbids to compile here what might have been distributed."""
        if not self.stays or reason == "preprocessor" or reason in LOCAL_REASONS:
            return True
        self.invocation.complain("%s: not compiled here, since DISTCC_LM_FALLBACK=0: %s" % (
            self.command.source, reason_text(reason)))
        return False

    # -- the daemon

    def farm(self):
        """From hello to the end of the compile. An exit status. Raises DaemonGone, WireError."""
        command, carets = self.command, "\0carets" if self.invocation.takes_messages() else ""
        self.link = DaemonLink.find(self.invocation.sockets())
        self.link.send(b"HELO", CLIENT_VERSION, b"cc", command.source, command.output, command.job_class,
                       source_stamp(command.source), short_key(command.flags_key + carets), self.invocation.key(),
                       bool(command.own_only) + 2 * self.stays,
                       0 if command.directives_only_bar or command.preprocessed else 1, posix.getcwd(),
                       short_key(command.shape))
        status = None
        while status is None:
            status = self.obey(*self.link.receive())
        return status

    def obey(self, name, fields):
        """A message of the daemon. An exit status, or None: more is to come."""
        if name == b"TURN":
            return self.take_turn(fields)
        if name == b"SOCK":
            return self.remote(fields)
        if name == b"LOCL":
            return self.go_local(fields)
        if name == b"NOPE":
            raise DaemonGone(refusal_text(fields))
        return None

    def take_turn(self, fields):
        """Preprocess and tell the size. None, or an exit status where it was compiled here after all."""
        if fields[1] == b"1":
            identity = self.invocation.identity()
            if identity is None:
                return self.give_up("compiler-silent")
            self.link.send(b"IDNT", identity)
            if not identity:
                return None                                 # LOCL follows
        text = self.text
        text.recipe = b"".join(fields[2:3]).decode("utf-8", "surrogateescape") or NO_RECIPE
        reason = text.make(MODE_NAMES[int(fields[0])])
        if reason:
            return self.give_up(reason)
        self.link.send(b"SIZE", text.size, text.milliseconds, MODE_NAMES.index(text.mode), "".join(text.plain_files),
                       "".join(text.odd_files), text.new_recipe if len(text.new_recipe) <= LONG_COMMAND_BYTES else "",
                       text.digest() if fields[3:4] == [b"1"] else "")
        return None

    def give_up(self, reason, tell=False, host=b"", text=""):
        """Ask for a local slot, run the real command, whose output is the answer."""
        self.discard()
        self.link.send(b"HOME", reason, 1 if tell else 0, host, text)
        return self.await_local()

    # -- remote

    def remote(self, fields):
        """One try on the host whose socket has come. An exit status, or None: the daemon was asked for another."""
        import time
        self.say("to %s: %d bytes" % (fields[0].decode("utf-8", "replace"), self.text.size))
        job = JobSocket(self.link.take_socket(), self.link, fields[1], fields[0])
        started = time.monotonic()
        try:
            reply = job.exchange(self.text)
            if reply.status or (reply.stderr or reply.stdout) and not self.invocation.takes_messages():
                return self.judge(reply, job)
            new = NewFile(self.command.output)
            self.outputs.append(new)
            new.open()
            job.receive(new.fd, reply.size)
            times = None if job.plain else job.decode(decode_times())
            job.close()
            show(self.text, reply)
            return self.success(job, new, times, int((time.monotonic() - started) * 1000))
        except HostFailed as failure:
            return self.another(failure.args, job)
        except CalledOff as message:                        # it is late there: the daemon has said where else
            job.close()
            self.discard_outputs()
            return self.obey(*message.args)
        except OSError as error:                            # no room for it, mostly: the compiler says so itself
            self.say("%s: %s" % (self.command.output, error.strerror))
            return self.after_farm(job, "output-special")
        finally:
            job.close()

    def judge(self, reply, job):
        """The server answered, but not just with an object."""
        if killed_by(reply):
            return self.another(killed_by(reply), job)
        diagnosed = b": error: " in reply.stderr and b"internal compiler error" not in reply.stderr
        if reply.status and (diagnosed and self.invocation.takes_messages() or self.stays):
            show(self.text, reply)
            if job.link:
                self.link.send(b"DONE", b"failed")
            return reply.status >> 8
        if not reply.status:
            return self.after_farm(job, "messages")
        return self.after_farm(job, "compile-error" if diagnosed else "compiler-failed", tell=True)

    def another(self, why, job):
        name, text = (*why, "")[:2]
        self.say("failed there: %s %s" % (name, text))
        self.discard_outputs()
        if job.link is None:
            raise DaemonClosed("and the host failed")
        self.link.send(b"FAIL", name, text, job.host)
        return None

    def after_farm(self, job, reason, tell=False):
        job.close()
        if job.link is None:
            raise DaemonClosed(reason)
        return self.give_up(reason, tell, job.host, self.text.digest())

    def success(self, job, new, times, total_ms):
        """Dependencies first, as gcc does, then the object. OSError where they cannot be written."""
        self.text.write_dependencies(self.outputs)
        new.finish()
        figures = times.figures() if times else (-1, -1, -1, -1, -1)
        if job.link:
            try:
                self.link.send(b"DONE", b"ok", job.sent, job.received, total_ms, *figures, job.host)
            except DaemonGone:
                pass
        return 0

    # -- ends

    def discard_outputs(self):
        for new in self.outputs:
            new.discard()
        self.outputs.clear()

    def discard(self):
        """All temporaries."""
        self.discard_outputs()
        if self.text:
            self.text.discard()

    def run_farm(self):
        """The farm, with more tries where the daemon restarts meanwhile; then this box without it."""
        import time
        deadline, known = 0.0, False                        # known: there is, or was, a daemon
        while True:
            try:
                return self.farm()
            except TooLarge as error:
                return self.local("long-command", str(error))
            except (DaemonGone, WireError) as error:
                self.say("daemon: %s" % error)
                self.discard_outputs()
                connected, closed = bool(self.link), isinstance(error, DaemonClosed)
            if connected:
                known = True
                self.link.sock.close()
                self.link = None
            if closed and not deadline:
                deadline = time.monotonic() + RETRY_DAEMON_S
            if connected and not closed or time.monotonic() > deadline:     # what it says, or says not, it will again
                break
            time.sleep(0.05)                                # a restarting daemon: there is no event to wait for
        if known:
            wait_in_line(self.invocation.sockets()[0])
        return self.end_without_farm()

    def end_without_farm(self):
        self.discard()
        allowed = self.command is None or self.may_fall_back("no-daemon")
        return self.invocation.become() if allowed else 1


# What compilers and their drivers say, behind no more than their name.
OUT_OF_MEMORY = (b"out of memory allocating ", b"virtual memory exhausted", b"LLVM ERROR: out of memory",
                 b"fatal error: Killed signal terminated program", b"internal compiler error: Killed",
                 b"error: unable to execute command: Killed")


def killed_by(reply):
    """(reason name, text) where the compiler did not come to its end there; else None."""
    number = reply.status & 0x7f
    if number == 9:                                         # the kernel's way
        return "out-of-memory", ""
    for line in reply.stderr.splitlines() if reply.status else ():
        program, _, words = line.partition(b": ")
        if line.startswith(OUT_OF_MEMORY) or b":" not in program and words.startswith(OUT_OF_MEMORY):
            return "out-of-memory", ""
    return ("killed", "signal %d" % number) if number else None


def wait_in_line(path):
    """The daemon died under many clients: no more than the usable CPUs compile at once, for 30 s at most. The lock is
    held by the descriptor, which the compiler inherits and never knows of."""
    import fcntl
    import time
    until = time.monotonic() + FALLBACK_LOCK_S
    cpus = len(posix.sched_getaffinity(0)) if hasattr(posix, "sched_getaffinity") else 2
    while time.monotonic() < until:
        for i in range(cpus):
            try:
                fd = posix.open("%s.fallback%d" % (path, i), posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o600)
            except OSError:
                return                                      # not our folder: no line to wait in
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                posix.close(fd)
                continue
            posix.set_inheritable(fd, True)
            return
        time.sleep(0.02)


WATCHED_VARIABLES = (*ENVIRONMENT, "LD_PRELOAD", "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES")


def read_file(path):
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return read_all(fd, posix.fstat(fd).st_size)
    finally:
        posix.close(fd)


def read_at_file(path):
    """For analyze(). RunLocally for a pipe or a device: the compiler must find it unread."""
    if not readable_twice(path):
        raise RunLocally("at-file", path)
    return read_file(path)


def real_path(path):
    """What a path's last component ends in, its links followed."""
    for _ in range(40):
        try:
            link = posix.readlink(path)
        except OSError:
            return path
        path = link if link.startswith("/") else path.rpartition("/")[0] + "/" + link
    return path


def original_ctype():
    """"=" and LC_CTYPE as the caller set it, or "". Python's locale coercion changes the environment, but not the block
    that it was started with."""
    try:
        block = read_file_of_unknown_size("/proc/self/environ")
    except OSError:
        block = b"".join(b"%s=%s\0" % item for item in posix.environ.items())
    found = [entry[8:] for entry in block.split(b"\0") if entry.startswith(b"LC_CTYPE=")]
    return decode_system(found[0]) if found else ""


def client_main(argv, caller):
    """Runs `cc`, by that name or a link's, and does not return; returns where argv (the called name
    first) asks for something else. `caller`: what the sh header found, the numbers of
    IGNORED_BY_PYTHON that its caller ignored, then as of original_ctype(); None where Python was
    called directly."""
    name = argv[0].rpartition("/")[2]
    if family_of(name) is not None:
        run_client([name] + argv[1:], caller, True)
    elif argv[1:2] == ["cc"] and argv[2:] not in ([], ["--help"], ["-h"]):
        run_client(argv[2:], caller, False)
    elif argv[1:] and argv[1] != "cc" and family_of(argv[1].rpartition("/")[2]) is not None:
        run_client(argv[1:], caller, False)                  # CCACHE_PREFIX may be one word only


def occupy_streams():
    """What the caller closed of 0 to 2 is no number for a socket or a lock: the compiler's words would
    go there. exec closes it again."""
    for fd in (0, 1, 2):
        try:
            posix.fstat(fd)
        except OSError:
            posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
            if folder_at(9 - fd):                           # the sh header has put it there
                posix.dup2(9 - fd, fd)
                posix.close(9 - fd)


def folder_at(fd):
    try:
        return posix.fstat(fd).st_mode & 0o170000 == 0o040000
    except OSError:
        return False


def run_client(words, caller, masquerade):
    """`cc`: never returns."""
    occupy_streams()
    ignored, given, ctype = (original_ctype() if caller is None else caller).partition("=")
    environ = dict(posix.environ)
    environ.pop(b"LC_CTYPE", None)                          # it may be Python's own coercion
    if given:
        environ[b"LC_CTYPE"] = encode_system(ctype)
    signals = Signals(ignored.split())
    client = Client(Invocation(words, environ, masquerade, signals))
    try:
        status = client.run()
    except Interrupted as interrupted:
        signals.ignore()
        client.discard()
        status = signals.die(interrupted.number)
    except Exception as error:                              # noqa: BLE001 - the compile ends as it would without us
        client.say("bug: %s: %s" % (type(error).__name__, error))
        status = client.end_without_farm()
    posix._exit(status)


# ==== 12. Reports ===================================================================================================
# What status, why and check print. From the daemon's JSON only; no policy.

HOST_STATES = ("up", "busy", "draining", "suspect", "down")


class NoDaemon(Exception):
    """There is no daemon to ask, or it does not answer; str() says which sockets were tried."""


def daemon_sockets():
    """Where to look for this box's daemon, as the client does."""
    return Invocation([""], dict(posix.environ), False, None).sockets()


def ask_daemon(command, *arguments):
    """The decoded JSON answer of this box's daemon. Raises NoDaemon, and UsageError for what it refuses."""
    trouble = []
    for path in daemon_sockets():
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(SILENCE_TIMEOUT_S)
                sock.connect(path)
                sock.sendall(encode_fields(b"HELO", CLIENT_VERSION, command, *arguments))
                decoder = Decoder(decode_fields(1 << 28))
                while not decoder.done:
                    data = sock.recv(1 << 20)
                    if not data:
                        raise OSError(errno.ECONNRESET, "closed the connection")
                    decoder.feed(data)
        except (OSError, WireError) as error:
            trouble.append("%s: %s" % (path, getattr(error, "strerror", None) or error))
            continue
        name, fields = decoder.result
        text = b"\0".join(fields).decode("utf-8", "replace")
        if name != b"JSON":
            raise UsageError(text)
        return json.loads(text)
    raise NoDaemon("no daemon answers (%s); `distcc_lm.py daemon` starts one" % "; ".join(trouble))


def shown(value, form="%s"):
    return "-" if value is None else form % value


def printable(text):
    """For a terminal: what a file name or a peer may hold never moves the cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def local_reason(name):
    return LOCAL_REASONS.get(name) or reason_text(name)


def duration(seconds):
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours >= 48:
        return "%d days" % (hours // 24)
    return "%d h %d min" % (hours, minutes % 60) if hours else "%d min" % minutes if minutes else "%d s" % seconds


def counted(number, one, many=None):
    """"1 job", "5 jobs"."""
    return "%d %s" % (number, one if number == 1 else many or one + "s")


def remarks(host, version):
    """Sentences about a host: why it is not up, and what is odd about it."""
    found = [host["reason"]] if host["reason"] else []
    if host["lacks"]:
        found.append("has no %s, or another version of it" % " nor ".join(host["lacks"]))
    if host["version"] not in (None, "", version):
        found.append("runs distcc_lm %s, this box %s" % (host["version"], version))
    if host["kind"] == "distccd" and not found:
        found.append("plain distccd: tells neither load nor times")
    elif host["kind"] != "distccd" and host["contained"] in ("user", "none"):
        found.append({"user": "no Landlock there: compilers are contained by their user only",
                      "none": "compilers run there uncontained"}[host["contained"]])
    spent = [value or 0 for value in host["mean_ms"].values()]
    if (host["mean_ms"]["transfer"] or 0) > TRANSFER_SHARE_WARNED * sum(spent):
        found.append("more time goes into transfer than into compiling: a slow link?")
    return "; ".join(printable(remark) for remark in found)


# A column of the table of hosts: its title, the least width of the terminal for it, and the cell.
HOST_COLUMNS = (
    ("STATE", 0, lambda h: h["state"]),
    ("JOBS", 0, lambda h: "%s/%s" % (shown(h["running"]), shown(h["slots"]))),
    ("MINE", 0, lambda h: str(h["mine"])),
    ("WAIT", 0, lambda h: shown(h["waiting"])),
    ("LOAD", 0, lambda h: shown(h["load"], "%.1f")),
    ("MS/KB", 0, lambda h: shown(h["speed_ms_per_kb"], "%.2f")),
    ("OFF", 0, lambda h: shown(h["prediction_error"] and 100 * h["prediction_error"], "%.0f%%")),
    ("DONE", 0, lambda h: str(h["jobs"]["ok"])),
    ("BAD", 0, lambda h: str(h["jobs"]["failed"] + h["jobs"]["refused"])),
    ("CORES", 90, lambda h: shown(h["cores"])),
    ("FREE GB", 100, lambda h: shown(h["memory_available_kb"] and h["memory_available_kb"] / 1e6, "%.1f")),
    ("RTT MS", 110, lambda h: shown(h["rtt_ms"], "%.1f")),
    ("MB/S", 120, lambda h: shown(h["bandwidth_kb_s"] and h["bandwidth_kb_s"] / 1e3, "%.0f")),
    ("QUEUE S", 130, lambda h: shown(h["mean_ms"]["queue"] and h["mean_ms"]["queue"] / 1e3, "%.2f")),
    ("COMPILE S", 140, lambda h: shown(h["mean_ms"]["compile"] and h["mean_ms"]["compile"] / 1e3, "%.2f")),
    ("TRANSFER S", 150, lambda h: shown(h["mean_ms"]["transfer"] and h["mean_ms"]["transfer"] / 1e3, "%.2f")),
)


def table(rows, width, numbers_from, notes=()):
    """Lines of aligned columns, numbers to the right; a first cell that would make its line too long stands on a line
    of its own. notes: a sentence for each row, on its line where there is room, else below it."""
    import textwrap
    widths = [max(len(row[i]) for row in rows) for i in range(1, len(rows[0]))]
    room = max(width - sum(widths) - 2 * len(widths), 8)
    first = min(max(len(row[0]) for row in rows), room)
    lines = []
    for row, note in zip(rows, list(notes) or [""] * len(rows)):
        if len(row[0]) > first:
            lines.append(row[0][:width])
        cells = [row[0].ljust(first) if len(row[0]) <= first else " " * first]
        cells += [cell.ljust(w) if i < numbers_from else cell.rjust(w)
                  for i, (cell, w) in enumerate(zip(row[1:], widths), 1)]
        line = "  ".join(cells)
        if note and len(line) + 2 + len(note) <= width:
            line, note = line + "  " + note, ""
        lines.append(line.rstrip())
        lines += textwrap.wrap(note, width, initial_indent="    ", subsequent_indent="    ") if note else []
    return lines


def host_lines(status, width):
    columns = [column for column in HOST_COLUMNS if width >= column[1]]
    rows = [["HOST"] + [title for title, _, _ in columns]]
    rows += [[printable(host["name"])] + [cell(host) for _, _, cell in columns] for host in status["hosts"]]
    return table(rows, width, 2, [""] + [remarks(host, status["version"]) for host in status["hosts"]])


def speed_lines(status, width, most=12):
    """How fast hosts were at which load; only those that have shown it."""
    known = [host for host in status["hosts"] if host["by_load"]]
    if not known:
        return []
    labels = [label for _, label in HostFigures.LOADS]
    rows = [["MS PER KB AT JOBS PER CORE"] + labels]
    for host in known[:most]:
        speed = {row["load"]: "%.2f (%d)" % (row["ms_per_kb"], row["jobs"]) for row in host["by_load"]}
        rows.append([printable(host["name"])] + [speed.get(label, "-") for label in labels])
    more = ["  and %d more hosts: --json has all" % (len(known) - most)] if len(known) > most else []
    return ["", *table(rows, width, 1), *more]


def local_lines(totals, most=6):
    """Why jobs were compiled here, the most frequent reason first."""
    reasons = sorted(totals["local_reasons"].items(), key=lambda item: (-item[1], item[0]))
    if not reasons:
        return []
    lines = ["Here because:"] + ["  %6d  %s" % (count, local_reason(name)) for name, count in reasons[:most]]
    if reasons[most:]:
        lines.append("  %6d  for %d other reasons" % (sum(n for _, n in reasons[most:]), len(reasons) - most))
    if {"messages", "compile-error", "preprocessor-messages"} & set(totals["local_reasons"]):
        lines.append("          (DISTCC_LM_CARETS=0 takes the remote messages, without source lines)")
    return lines


def job_lines(status, width, most=20):
    if not status["jobs"] and not status["others"]:
        return []
    lines = ["", "Now: %s%s" % (counted(len(status["jobs"]), "job of yours", "jobs of yours"),
                                 ", %d of others" % status["others"] if status["others"] else "")]
    for job in status["jobs"][:most]:
        lines.append(("  %-10s %6.1f s  %-18s %s" % (job["state"], job["elapsed_s"], job["host"] or "",
                                                    printable(job["source"])))[:width])
    if len(status["jobs"]) > most:
        lines.append("  and %d more" % (len(status["jobs"]) - most))
    return lines


def head_line(status):
    daemon = status["daemon"]
    serving = "serving others" if daemon["accepting"] else "not serving others"
    return "distcc_lm %s at %s, up %s, %s; make -j%d" % (
        status["version"], daemon["address"], duration(daemon["uptime_s"]), serving, status["advice"]["make_jobs"])


def total_lines(status):
    totals, errors = status["totals"], [(host["prediction_error"], host["jobs"]["ok"]) for host in status["hosts"]
                                        if host["prediction_error"] is not None]
    lines = ["%d remote, %d here, %d here after a try elsewhere; %d served to others" % (
        totals["remote"], totals["local"], totals["fallback"], totals["served"])]
    weight = sum(jobs for _, jobs in errors)
    if weight:
        lines.append("Predicted times were off by %.0f %% on average." % (
            100 * sum(error * jobs for error, jobs in errors) / weight))
    if status["secret"]["wrong_keys"]:
        lines.append("With another key, or none (--secret-file): " + ", ".join(status["secret"]["wrong_keys"][:8]))
    return lines


def status_lines(status, width=80):
    """The text of `status`: this box, hosts, jobs, and why jobs stayed here."""
    cached = status["daemon"]["client_start"] == "cached"
    return [head_line(status)[:width], "", *host_lines(status, width), *speed_lines(status, width), "",
            *total_lines(status), *local_lines(status["totals"]), *job_lines(status, width), "",
            *("Host list: " + printable(warning) for warning in status["warnings"]),
            "The client starts from its compiled cache." if cached else
            "The client is parsed anew at each start, 3 to 40 ms more a compile: nothing compiled",
            *([] if cached else ["lies beside the program. `distcc_lm.py install DIR` by its owner makes it."])]


# ---- status --watch

class Bars:
    """The same as a screen of a given size."""
    SPARKS = "▁▂▃▄▅▆▇█"

    def __init__(self, unicode_too):
        self.full, self.part, self.empty = "█▓░" if unicode_too else "#+."
        self.sparks = self.SPARKS if unicode_too else "_.-=+*%#"

    def bar(self, host, width):
        """Slots in use: mine, others', free."""
        slots = max(host["slots"] or 0, host["mine"], host["running"] or 0, 1)
        mine = round(host["mine"] / slots * width)
        used = max(round(max(host["running"] or 0, host["mine"]) / slots * width), mine)
        return self.full * mine + self.part * (used - mine) + self.empty * (width - used)

    def spark(self, values, most):
        top = max(most, *values, 1)
        return "".join(self.sparks[round(value / top * (len(self.sparks) - 1))] for value in values)

    def lines(self, status, past, width, height):
        """At most `height` lines of at most `width` columns. past: the numbers of waiting jobs, newest last."""
        totals, hosts = status["totals"], status["hosts"]
        names = min(max(len(printable(host["name"])) for host in hosts), max(width - 40, 8))
        room = max(width - names - 33, 4)
        found = [head_line(status), ""]
        for host in hosts:
            mark = remarks(host, status["version"]) if host["state"] in ("down", "suspect", "draining") else ""
            found.append("%-*s %-8s %7s %7s  %s" % (
                names, printable(host["name"])[:names], host["state"],
                "%s/%s" % (shown(host["running"]), shown(host["slots"])), shown(host["speed_ms_per_kb"], "%.2f"),
                mark or self.bar(host, min(room, 60))))
        found.insert(2, "%-*s %-8s %7s %7s  %s" % (
            names, "HOST", "STATE", "JOBS", "MS/KB", "%s mine  %s of others  %s free" % (
                self.full, self.part, self.empty)))
        waiting = status["queue"]["waiting"]
        found += ["", "waiting %5d  %s" % (waiting, self.spark(past[-max(width - 16, 1):] or [0], 8)),
                  "remote %6d  here %d  after a try elsewhere %d  served %d" % (
                      totals["remote"], totals["local"], totals["fallback"], totals["served"])]
        found += job_lines(status, width, 1000)
        if len(found) > height:
            found[height - 1:] = ["... %d more lines" % (len(found) - height + 1)]
        return [line[:width].rstrip() for line in found[:height]]


class Screen:
    """A terminal while --watch has it: the other screen, no cursor, keys as they are typed. Given back by close(),
    whatever ends the command."""

    def __init__(self):
        import termios
        import tty
        self.termios, self.tty = termios, tty
        self.old = termios.tcgetattr(0) if os.isatty(0) else None
        self.signals, self.wake = {}, socket.socketpair()
        for sock in self.wake:
            sock.setblocking(False)
        signal.set_wakeup_fd(self.wake[1].fileno())
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            self.signals[number] = signal.signal(number, lambda *_: None)
        self.take()

    def write(self, text):
        sys.stdout.write(text)
        sys.stdout.flush()

    def take(self):
        if self.old:
            self.tty.setcbreak(0)
        self.write("\x1b[?1049h\x1b[?25l")

    def give_back(self):
        self.write("\x1b[?25h\x1b[?1049l")
        if self.old:
            self.termios.tcsetattr(0, self.termios.TCSADRAIN, self.old)

    def size(self):
        """(columns, lines) as they are now, whatever COLUMNS says."""
        try:
            return os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 80, 24

    def draw(self, lines):
        """In place: nothing is cleared first, so nothing flickers."""
        self.write("\x1b[H" + "".join(line + "\x1b[K\n" for line in lines[:-1]) + lines[-1] + "\x1b[K\x1b[J")

    def wait(self, seconds_):
        """Until then, or a key, or another size. True: enough."""
        ready, _, _ = select.select([self.wake[0]] + ([0] if self.old else []), [], [], seconds_)
        if self.wake[0] in ready:
            numbers = set(self.wake[0].recv(64))
            if signal.SIGTSTP in numbers:
                self.give_back()
                os.kill(os.getpid(), signal.SIGSTOP)
                self.take()
            return bool(numbers & {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
        return bool(ready) and os.read(0, 64)[:1] in (b"q", b"Q", b"\x04", b"")

    def close(self):
        self.give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self.signals.items():
            signal.signal(number, handler)


def watch_status(interval, text, in_place):
    """status again and again; on a terminal redrawn in place. A daemon that restarts is waited for. Exit status."""
    status, past = ask_daemon("status"), []
    if not in_place or not sys.stdout.isatty():
        while True:
            print(text(status), end="\n\n", flush=True)
            time.sleep(interval)
            status = ask_daemon("status")
    bars, screen, trouble = Bars("utf" in (sys.stdout.encoding or "").lower()), Screen(), ""
    try:
        while True:
            past = past[-500:] + [status["queue"]["waiting"]]
            columns, height = screen.size()
            lines = bars.lines(status, past, columns, max(height - 1, 1))
            last = trouble or "%s  every %g s  q quits" % (time.strftime("%H:%M:%S"), interval)
            screen.draw((lines + [last[:max(columns - 1, 1)]])[-max(height, 1):])
            if screen.wait(interval):
                return 0
            try:
                status, trouble = ask_daemon("status"), ""
            except NoDaemon as error:
                trouble = str(error)
    finally:
        screen.close()


# ---- status --metrics

# Of a host: name behind distcc_lm_host_, unit, what it is, the key and the factor to that unit.
HOST_GAUGES = (
    ("slots", "", "Jobs at once, as the host says now", "slots", 1),
    ("running", "", "Jobs that run there, of all submitters", "running", 1),
    ("waiting", "", "Requests that wait there", "waiting", 1),
    ("mine", "", "Jobs of this box there", "mine", 1),
    ("load", "", "Runnable tasks there that are no jobs", "load", 1),
    ("cores", "", "Usable CPUs", "cores", 1),
    ("memory_available_bytes", "bytes", "Memory that is available", "memory_available_kb", 1024),
    ("report_age_seconds", "seconds", "Since the last load report", "report_age_s", 1),
    ("speed_seconds_per_kilobyte", "", "CPU time per KB of preprocessed source", "speed_ms_per_kb", 1e-3),
    ("rtt_seconds", "seconds", "From request to answer of an admission", "rtt_ms", 1e-3),
    ("bandwidth_bytes_per_second", "", "Measured with jobs", "bandwidth_kb_s", 1024),
    ("prediction_error_ratio", "ratio", "Mean of |predicted - actual| / actual", "prediction_error", 1),
)


def label_text(labels):
    """{name="value",...} in OpenMetrics' own quoting."""
    quoted = ['%s="%s"' % (name, value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r'\"'))
              for name, value in labels.items()]
    return "{%s}" % ",".join(quoted) if quoted else ""


def metric_lines(status):
    """OpenMetrics text. Types are gauge and counter only, so that a textfile collector's older parser takes it too."""
    lines, daemon, totals, hosts = [], status["daemon"], status["totals"], status["hosts"]

    def family(name, kind, unit, text, rows):
        """rows: (labels, value); a value of None is left out."""
        lines.append("# TYPE distcc_lm_%s %s" % (name, kind))
        if unit:
            lines.append("# UNIT distcc_lm_%s %s" % (name, unit))
        lines.append("# HELP distcc_lm_%s %s." % (name, text))
        suffix = "_total" if kind == "counter" else ""
        lines.extend("distcc_lm_%s%s%s %.10g" % (name, suffix, label_text(labels), value)
                     for labels, value in rows if value is not None)

    family("version", "gauge", "", "1, the version as a label", [({"version": status["version"]}, 1)])
    family("uptime_seconds", "gauge", "seconds", "Since this box's daemon started", [({}, daemon["uptime_s"])])
    family("accepting", "gauge", "", "Whether jobs of others are taken", [({}, daemon["accepting"])])
    family("client_cached", "gauge", "", "Whether the client starts from its compiled cache",
           [({}, daemon["client_start"] == "cached")])
    family("make_jobs", "gauge", "", "Advice for make -j", [({}, status["advice"]["make_jobs"])])
    family("queue_jobs", "gauge", "", "Jobs that wait on this box",
           [({"user": user}, count) for user, count in status["queue"]["by_user"].items()])
    family("jobs", "counter", "", "Jobs by where they ran, or how they ended",
           [({"outcome": name}, count) for name, count in totals.items() if name != "local_reasons"])
    family("local_jobs", "counter", "", "Jobs that were compiled on this box, by reason",
           [({"reason": name}, count) for name, count in totals["local_reasons"].items()])
    family("dropped_packets", "counter", "", "Load packets that were not believed",
           [({"reason": name}, count) for name, count in status["packets"].items() if isinstance(count, int)])
    family("host_state", "gauge", "", "1 for the state that the host is in",
           [({"host": h["name"], "state": state}, h["state"] == state) for h in hosts for state in HOST_STATES])
    for name, unit, text, key, factor in HOST_GAUGES:
        family("host_" + name, "gauge", unit, text,
               [({"host": h["name"]}, h[key] if h[key] is None else h[key] * factor) for h in hosts])
    family("host_stage_seconds", "gauge", "seconds", "Mean time of a job's stages there",
           [({"host": h["name"], "stage": stage}, ms if ms is None else ms / 1e3)
            for h in hosts for stage, ms in h["mean_ms"].items()])
    family("host_jobs", "counter", "", "Jobs of this box by how they ended there",
           [({"host": h["name"], "outcome": name}, count) for h in hosts for name, count in h["jobs"].items()])
    return lines + ["# EOF"]


# ---- status --html

PAGE_STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f6f7f9; --text: #1b1f24; --faint: #5b6570; --line: #d5dae0;
  --preprocess: #8250df; --wait: #c2c9d1; --transfer: #d4790e; --compile: #1a73c7; --local: #2a8a4a; --remote: #5b9bd5;
  --bad: #c62828; --good: #2a8a4a; --c0: #1a73c7; --c1: #d4790e; --c2: #2a8a4a; --c3: #8250df; --c4: #c62828;
  --c5: #0f8b8d; --c6: #ad1a72; --c7: #7a6a00; }
@media (prefers-color-scheme: dark) { :root { --back: #14171b; --card: #1d2228; --text: #e4e8ec; --faint: #98a3ae;
  --line: #39414a; --preprocess: #b392f0; --wait: #4a545e; --transfer: #f0a04b; --compile: #58a6ff; --local: #56c271;
  --remote: #35618c; --bad: #ff7b72; --good: #56c271; --c0: #58a6ff; --c1: #f0a04b; --c2: #56c271; --c3: #b392f0;
  --c4: #ff7b72; --c5: #4fd1d3; --c6: #f778ba; --c7: #d7c34a; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.2rem; max-width: 75rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
p { margin: .3rem 0; color: var(--faint) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin-top: 1rem }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem }
.tile b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums }
.tile span { color: var(--faint); font-size: .85rem }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem }
.wide svg { display: block; width: 100%; min-width: 46rem; height: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; white-space: nowrap }
th { text-align: left; color: var(--faint); font-weight: 500; font-size: .85rem }
th, td { padding: .25rem .7rem .25rem 0; border-top: 1px solid var(--line) }
tr:first-child > *, tr.note td { border: 0 } tr.note td { padding-top: 0 } tr.note { color: var(--faint) }
.n { text-align: right } .why td { white-space: normal } .why td.n { width: 5rem }
.up { color: var(--good) } .down, .suspect { color: var(--bad) }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; color: var(--faint); font-size: .85rem; margin: .3rem 0 }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin-right: .35rem;
  vertical-align: -1px }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif } svg .name { fill: var(--text) }
svg .grid { stroke: var(--line); stroke-width: 1; fill: none } svg .curve { fill: none; stroke-width: 2 }
"""


def nice_step(span, parts=6):
    """A round distance of grid lines: 1, 2 or 5 times a power of ten."""
    raw = max(span, 1e-9) / parts
    if 40 < raw <= 600:                     # seconds, mostly: whole minutes
        return next(step for step in (60, 120, 300, 600) if step >= raw * 0.999)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)


def ago(seconds_):
    """A label of the time axis: a negative number of seconds, or minutes where they are round."""
    if abs(seconds_) < 1e-6:
        return "now"
    return "%g min" % (seconds_ / 60) if abs(seconds_) >= 120 and not round(seconds_, 3) % 60 else "%g s" % round(
        seconds_, 6)


class Chart:
    """One inline SVG with axes; x grows to the right from `low` to `high`, y upwards from 0 to `top`."""
    WIDTH, LEFT, RIGHT = 1000, 50, 12

    def __init__(self, title, height, low, high, top=1.0, left=LEFT):
        self.title, self.height, self.left = title, height, left
        self.low, self.high, self.top = low, max(high, low + 1e-6), max(top, 1e-9)
        self.parts = []

    def x(self, value):
        return self.left + (value - self.low) / (self.high - self.low) * (self.WIDTH - self.left - self.RIGHT)

    def y(self, value):
        return self.height - 24 - value / self.top * (self.height - 34)

    def add(self, form, *values):
        self.parts.append(form % values)

    def text(self, x, y, text, anchor="middle", kind=""):
        import html
        self.add('<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>', x, y, anchor,
                 ' class="%s"' % kind if kind else "", html.escape(printable(text)))

    def grid_x(self, label):
        step = nice_step(self.high - self.low)
        mark = math.ceil(self.low / step - 1e-9) * step
        while mark <= self.high + step * 1e-6:
            self.add('<path class="grid" d="M%.1f 6V%d"/>', self.x(mark), self.height - 24)
            self.text(min(self.x(mark), self.WIDTH - 30), self.height - 8, label(mark))
            mark += step

    def grid_y(self, form="%g"):
        step = nice_step(self.top, 4)
        for i in range(int(self.top / step + 1e-9) + 1):
            self.add('<path class="grid" d="M%d %.1fH%d"/>', self.left, self.y(i * step), self.WIDTH - self.RIGHT)
            self.text(self.left - 6, self.y(i * step) + 4, form % (i * step), "end")

    def curve(self, points, colour, dashes=""):
        self.add('<path class="curve" style="stroke:var(--%s)"%s d="M%s"/>', colour,
                 ' stroke-dasharray="%s"' % dashes if dashes else "",
                 "L".join("%.1f %.1f" % (self.x(x), self.y(y)) for x, y in points))

    def svg(self):
        import html
        return '<div class="wide"><svg viewBox="0 0 %d %d" role="img" aria-label="%s">%s</svg></div>' % (
            self.WIDTH, self.height, html.escape(self.title, True), "".join(self.parts))


def key_line(items):
    """What the colours mean: (colour, words)."""
    import html
    return '<div class="key">%s</div>' % "".join(
        '<span><i style="background:var(--%s)"></i>%s</span>' % (colour, html.escape(words)) for colour, words in items)


class Page:
    """The whole page: no script, nothing from elsewhere."""
    WINDOW_S, ROW, LANE_ROWS = 180.0, 11, 24
    KINDS = (("preprocess", "preprocess (here)"), ("wait", "wait for a slot"), ("transfer", "transfer, both ways"),
             ("compile", "compile"), ("local", "compile here"), ("remote", "remote, not told apart"))

    def __init__(self, status, at):
        self.status, self.at = status, at       # at: what the clock on the wall says

    def html(self):
        import html
        status = self.status
        up = sum(host["state"] in ("up", "busy") for host in status["hosts"])
        totals = status["totals"]
        tiles = ((totals["remote"], "jobs compiled remotely"), (totals["local"] + totals["fallback"], "compiled here"),
                 (totals["served"], "served to others"), (status["queue"]["waiting"], "waiting now"),
                 ("%d of %d" % (up, len(status["hosts"])), "hosts up"),
                 ("-j%d" % status["advice"]["make_jobs"], "advice for make"))
        parts = ["<!DOCTYPE html>\n<html lang=en><meta charset=utf-8>",
                 '<meta name=viewport content="width=device-width, initial-scale=1">',
                 "<title>distcc_lm at %s</title><style>%s</style>" % (html.escape(status["daemon"]["address"]),
                                                                     PAGE_STYLE),
                 "<h1>distcc_lm at %s</h1><p>%s; %s</p>" % (
                     html.escape(status["daemon"]["address"]), html.escape(self.at), html.escape(head_line(status))),
                 '<div class="tiles">%s</div>' % "".join(
                     '<div class="tile"><b>%s</b><span>%s</span></div>' % tile for tile in tiles),
                 "<h2>Hosts</h2>", self.hosts(), "<h2>Jobs by host</h2>", self.timeline(),
                 "<h2>Queue and slots</h2>", self.queue(), "<h2>Speed by load</h2>", self.speeds(), self.reasons()]
        return "\n".join(parts) + "\n</html>\n"

    def hosts(self):
        import html
        columns = HOST_COLUMNS[1:]
        rows = ["<tr><th>HOST<th>STATE%s" % "".join(
            '<th class="n">%s' % title for title, _, _ in columns)]
        for host in self.status["hosts"]:
            rows.append('<tr><td>%s<td class="%s">%s%s' % (
                html.escape(printable(host["name"])), host["state"], host["state"],
                "".join('<td class="n">%s' % html.escape(cell(host)) for _, _, cell in columns)))
            remark = remarks(host, self.status["version"])
            if remark:
                rows.append('<tr class="note"><td><td colspan="%d">%s' % (len(columns) + 1, html.escape(remark)))
        return '<div class="wide"><table>%s</table></div>' % "".join(rows)

    # -- jobs

    def bars(self):
        """{host: [(begin, end, job, spans)]} of the window, times in seconds before now as negative numbers."""
        found = {}
        for job in self.status["recent"]:
            spans = [(s["what"], s["at_s"] - job["age_s"], s["s"]) for s in job["spans"] if s["what"] != "turn"]
            if spans:
                host = "this box" if job["host"] in ("local", None) else job["host"]
                end = spans[-1][1] + spans[-1][2]
                found.setdefault(host, []).append((spans[0][1], end, job, spans))
        latest = max((bar[1] for bars in found.values() for bar in bars), default=0.0)
        return {host: kept for host, bars in found.items()
                if (kept := [bar for bar in bars if bar[1] > latest - self.WINDOW_S])}

    def rows_of(self, bars):
        """Bars that overlap get rows of their own; the first free row takes the next."""
        free, placed = [], []
        for bar in sorted(bars, key=lambda bar: bar[0]):
            row = next((i for i, end in enumerate(free) if end <= bar[0]), len(free))
            free[row:row + 1] = [bar[1]]
            placed.append((row, bar))
        return placed, len(free)

    def timeline(self):
        lanes = self.bars()
        if not lanes:
            return "<p>No job is remembered yet.</p>"
        begin = min(bar[0] for bars in lanes.values() for bar in bars)
        end = max(bar[1] for bars in lanes.values() for bar in bars)
        placed = {host: self.rows_of(bars) for host, bars in sorted(lanes.items())}
        depth = {host: min(rows, self.LANE_ROWS) for host, (_, rows) in placed.items()}
        height = sum(max(rows * self.ROW, 14) + 10 for rows in depth.values()) + 34
        names = max(len(host) for host in lanes)
        chart = Chart("Recent jobs by host", height, max(begin, end - self.WINDOW_S), end,
                      left=min(max(names * 7 + 12, 60), 220))
        chart.grid_x(ago)
        top, crowded = 6, False
        for host, (bars, rows) in placed.items():
            chart.text(4, top + 12, host if len(host) < 30 else host[:28] + "..", "start", "name")
            for row, bar in bars:
                if row < self.LANE_ROWS:
                    self.draw(chart, top + row * self.ROW, bar)
            crowded = crowded or rows > self.LANE_ROWS
            top += max(depth[host] * self.ROW, 14) + 10
            chart.add('<path class="grid" d="M4 %dH%d"/>', top - 5, chart.WIDTH - chart.RIGHT)
        seen = {s[0] for bars in lanes.values() for bar in bars for s in bar[3]}
        note = "<p>The last %d jobs that this user may see, seconds before now. A bar is a job; its source shows " \
               "under the pointer.%s</p>" % (sum(map(len, lanes.values())),
                                             " Rows beyond %d are left out." % self.LANE_ROWS if crowded else "")
        return note + key_line([kind for kind in self.KINDS if kind[0] in seen]) + chart.svg()

    def draw(self, chart, top, bar):
        import html
        _, _, job, spans = bar
        words = ", ".join("%s %.2f s" % (what, length) for what, _, length in spans)
        chart.add("<g><title>%s (%d KB): %s; %s</title>", html.escape(printable(job["source"])), job["size_kb"],
                  html.escape(words), html.escape(job["outcome"] or "under way"))
        for what, begin, length in spans:
            left, right = chart.x(max(begin, chart.low)), chart.x(begin + length)
            if right >= chart.left:
                thin = 3 if what == "wait" else 0
                chart.add('<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="var(--%s)"/>', left, top + thin,
                          max(right - left, 0.6), self.ROW - 2 - 2 * thin, what)
        chart.parts.append("</g>")

    # -- curves

    def queue(self):
        rows = self.status["history"]
        if len(rows) < 2:
            return "<p>Nothing is recorded yet.</p>"
        series = (("slots", "faint", "slots of the farm"), ("remote", "compile", "jobs remote"),
                  ("waiting", "bad", "jobs waiting"), ("preprocess", "preprocess", "preprocessing"),
                  ("local", "local", "jobs here"))
        chart = Chart("Queue and slots", 220, -rows[0]["age_s"], -rows[-1]["age_s"],
                      1.08 * max(max(row[name] for name, _, _ in series) for row in rows) or 1.0)
        chart.grid_x(ago)
        chart.grid_y()
        for name, colour, _ in series:
            chart.curve([(-row["age_s"], row[name]) for row in rows], colour, "5 4" if name == "slots" else "")
        return key_line([(colour, words) for _, colour, words in series]) + chart.svg()

    def speeds(self):
        labels = [label for _, label in HostFigures.LOADS]
        known = [host for host in self.status["hosts"] if host["by_load"]]
        if not known:
            return "<p>No host has shown its speed yet.</p>"
        most = max(row["ms_per_kb"] for host in known for row in host["by_load"])
        chart = Chart("Speed by load", 240, -0.3, len(labels) - 0.7, most * 1.1)
        chart.grid_y()
        for i, label in enumerate(labels):
            chart.text(chart.x(i), chart.height - 8, label)
        for number, host in enumerate(known[:8]):
            points = [(labels.index(row["load"]), row["ms_per_kb"], row["jobs"]) for row in host["by_load"]]
            chart.curve([point[:2] for point in points], "c%d" % number)
            for x, y, jobs in points:
                chart.add('<circle cx="%.1f" cy="%.1f" r="4" fill="var(--c%d)"><title>%.2f ms/KB, %d jobs</title>'
                          "</circle>", chart.x(x), chart.y(y), number, y, jobs)
        more = " %d more hosts are not drawn." % (len(known) - 8) if len(known) > 8 else ""
        return ("<p>Milliseconds per KB of preprocessed source, by jobs per core: lower is faster.%s</p>" % more
                + key_line([("c%d" % i, printable(host["name"])) for i, host in enumerate(known[:8])]) + chart.svg())

    def reasons(self):
        import html
        rows = sorted(self.status["totals"]["local_reasons"].items(), key=lambda item: -item[1])
        if not rows:
            return ""
        return '<h2>Why jobs were compiled here</h2><div class="wide"><table class="why">%s</table></div>' % "".join(
            '<tr><td class="n">%d<td>%s' % (count, html.escape(local_reason(name)))
            for name, count in rows)


def write_page(path):
    """--html FILE, or - for stdout; by rename, so that nobody sees half a page. Raises UsageError."""
    text = Page(ask_daemon("status", "past"), time.strftime("%Y-%m-%d %H:%M:%S")).html()
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".new", path)
    except OSError as error:
        raise UsageError("--html %s: %s" % (path, error.strerror)) from None


# ---- why

def seconds(value):
    return "%.2f s" % value if value < 100 else duration(value)


def sentence_of_spans(spans):
    """What took how long, as one sentence; waits of no account are left out."""
    words = {"turn": "it waited %s for its turn to be preprocessed", "preprocess": "preprocessing took %s",
             "wait": "it waited %s for a slot", "transfer": "sending and receiving %s", "compile": "compiling %s",
             "remote": "the host had it for %s", "local": "it ran here for %s"}
    parts = [words[span["what"]] % seconds(span["s"]) for span in spans
             if span["s"] >= 0.005 or span["what"] not in ("turn", "wait")]
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def why_sentences(d):
    """One decision in sentences."""
    choice, rows = d["choice"], [row for row in d["candidates"] if row[1] is not None]
    others = "; ".join("%s %s%s" % (host, seconds(cost), " after waiting" if note == "full" else "")
                       for host, cost, note in rows if host != choice)
    if choice == "local":
        yield "Compiled on this box: %s." % local_reason(d["reason"] or "no-host")
    elif choice:
        cost = next((cost for host, cost, _ in rows if host == choice), None)
        yield "Sent to %s, %s." % (choice, "which was expected to have it done in " + seconds(cost) if cost is not None
                                   else "the first to have a free slot")
    elif d["outcome"] is None:
        yield "Not decided yet: %s." % ("it waits for the first free slot" if rows else "it is not preprocessed yet")
    if others:
        yield "%s %s." % ("Also weighed:" if choice else "Weighed so far:", others)
    for at, sentence in d["events"]:
        yield "After %s: %s." % (seconds(at), sentence.rstrip("."))
    spans = sentence_of_spans(d["spans"])
    if spans:
        yield spans
    if d["actual_s"] is not None and d["predicted_s"] is not None:
        off = 100 * (d["actual_s"] / max(d["predicted_s"], 1e-3) - 1)
        yield "There it took %s, predicted %s (%+.0f %%)." % (seconds(d["actual_s"]), seconds(d["predicted_s"]), off)
    ends = {None: "It has not ended yet.", "ok": "It ended well.", "cancelled": "Its client went away before the end.",
            "compile error": "It ended with a compile error."}
    if d["outcome"] in ends:
        yield ends[d["outcome"]]


def why_lines(decisions, width=80):
    """The text of `why`: a paragraph a decision, newest last."""
    import textwrap
    lines = []
    for d in decisions:
        size = " (%d KB preprocessed)" % d["size_kb"] if d["size_kb"] else ""
        lines.append("%s%s, %s ago" % (printable(d["source"]), size, duration(d["age_s"])))
        lines += textwrap.wrap(printable(" ".join(why_sentences(d))), width, initial_indent="    ",
                               subsequent_indent="    ", break_on_hyphens=False)
    return lines or ["No decision is known; the last %d of all users are kept." % DECISIONS_KEPT]


# ---- check

# What to do about a reason, for the one who runs both boxes.
ADVICE = {
    "connect": "Does its daemon (or distccd) run, with --allow, on that port? Does a firewall stop TCP?",
    "not-allowed": "Start its daemon with --allow and this box's network.",
    "compiler-unknown": "Install the same version of the compiler and of its assembler (binutils) there, or link it "
                        "into its --compilers folder: it is offered within seconds.",
    "draining": "`distcc_lm.py drain off` there ends that.",
    "memory": "Free memory there, or start its daemon with a lower --min-memory.",
    "disk": "Free space in its --tmpdir.",
    "bad-mac": "Give both daemons the same --secret-file, then send them SIGHUP.",
    "version": "Install the same distcc_lm.py on both boxes.",
    "too-large": "Start its daemon with a larger --max-job-mb.",
    "overloaded": "Its connections are used up: look at `distcc_lm.py status` there.",
    "no-report": "Does a firewall stop UDP on that port? Does its --allow name this box?",
    "other-object": "Another version of the compiler or assembler runs there: install the same one.",
}


class TestJob:
    """A small compile of which the right result is known, with a text large enough to measure a link."""
    TEXT_BYTES = 1 << 20

    def __init__(self, compiler, folder):
        """Compiles it here. Raises UsageError."""
        invocation = self.invocation = Invocation([compiler], dict(posix.environ), False, None)
        if not invocation.find():
            raise UsageError("%s: command not found; `check COMPILER` names the one to check with" % compiler)
        self.identity = invocation.identity() if invocation.family else ""
        if not self.identity:
            raise UsageError("%s: a script, or no compiler that can be identified" % invocation.program)
        name = "distcc_lm_check.%s" % ("ii" if invocation.cxx else "i")
        lines = ['# 1 "distcc_lm_check.c"', "int answer(int x) { return x * 42; }", "/*" + "-" * 76 + "*/"]
        text = "\n".join(lines[:2] + lines[2:] * (self.TEXT_BYTES // 81)) + "\n"
        path, output = os.path.join(folder, name), os.path.join(folder, "distcc_lm_check.o")
        with open(path, "w") as file:
            file.write(text)
        options = ["-O1", "-c", name, "-o", "distcc_lm_check.o"]
        self.command = analyze(options, invocation.family, invocation.cxx, {}, read_at_file)
        begin = time.monotonic()
        done = subprocess.run([invocation.program, *options], cwd=folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        self.local_s = time.monotonic() - begin
        if done.returncode:
            raise UsageError("%s fails on this box: %s" % (compiler, printable(done.stderr.decode("utf-8", "replace"))))
        self.object = read_file(output)
        self.fd, self.size, self.folder = os.open(path, os.O_RDONLY), len(text), folder

    def remote_argv(self, own):
        """As of a SourceText, which this stands in for."""
        words = self.command.remote_args("plain", self.folder, own)
        return [os.fsencode(word) for word in (basename(self.invocation.program), *words)]


class HostCheck:
    """One host, from its name to its object. run() is for a thread of its own."""
    PATIENCE_S, QUEUE_S = 10.0, 60.0

    def __init__(self, host, job, sockets):
        self.host, self.job, self.sockets = host, job, sockets
        self.step, self.trouble, self.facts, self.kind = "connecting", None, [], b""

    def run(self):
        try:
            self.compile(self.ask())
        except HostFailed as failure:
            name, text = (*failure.args, "")[:2]
            self.trouble = name, ": ".join(dict.fromkeys(filter(None, (reason_text(name), text))))
        except (DaemonGone, WireError, OSError) as error:
            self.trouble = "no-daemon", "the daemon of this box broke off: %s" % error
        if not self.trouble and self.host["state"] in ("down", "suspect"):
            if self.host["kind"] == "peer" and self.host["state"] == "down":
                self.trouble = "no-report", "jobs work, but " + self.host["reason"].partition(":")[0]
            else:
                self.facts.append("was: " + self.host["reason"])

    def ask(self):
        """The admitted connection, as this box's daemon gets it for a job. Raises HostFailed."""
        link = DaemonLink.find(self.sockets)
        try:
            link.send(b"HELO", CLIENT_VERSION, b"probe", self.host["name"], self.job.identity,
                      self.job.size // 1024 + 1)
            until, queued = time.monotonic() + self.PATIENCE_S, False
            while True:
                select.select([link], [], [], max(until - time.monotonic(), 0.0))
                message = link.receive(wait=False)
                if message is None:
                    if time.monotonic() >= until:
                        raise HostFailed(*(("overloaded", "all its slots are taken") if queued else
                                           ("silent", "no answer for %d s" % self.PATIENCE_S)))
                elif message[0] == b"PARK":
                    self.step, queued, until = "waiting for a slot", True, time.monotonic() + self.QUEUE_S
                elif message[0] == b"NOPE":
                    raise HostFailed(*(field.decode("utf-8", "replace") for field in message[1][:2]))
                elif message[0] == b"SOCK":
                    self.kind = message[1][1]
                    self.facts.append("round trip %.1f ms" % (int(message[1][3]) / 1e3))
                    return link.take_socket()
        finally:
            link.sock.close()

    def compile(self, fd):
        """Send the job, compare what comes back. Raises HostFailed."""
        self.step, own, begin = "compiling", self.host["kind"] == "peer", time.monotonic()
        socket_ = JobSocket(fd, None, self.kind)
        result = scratch_file("check")
        try:
            reply = socket_.exchange(self.job)
            if reply.status:
                text = reply.stderr.decode("utf-8", "replace").strip().splitlines()
                raise HostFailed("compiler-failed", printable(text[0]) if text else "status %#x" % reply.status)
            socket_.receive(result, reply.size)
            times = socket_.decode(decode_times()) if own else None
            total = time.monotonic() - begin
            found = os.pread(result, reply.size, 0)
        finally:
            socket_.close()
            os.close(result)
        if times:
            wire = max(total - (times.queue_ms + times.elapsed_ms) / 1e3, 1e-4)
            self.facts += ["%.0f MB/s" % ((socket_.sent + socket_.received) / 1e6 / wire),
                           "compile %.2f s (here %.2f s)" % (times.elapsed_ms / 1e3, self.job.local_s)]
        else:
            self.facts.append("compile and transfer %.2f s (here %.2f s)" % (total, self.job.local_s))
        if found != self.job.object:
            self.trouble = "other-object", "its object is not the one that this box makes"

    def lines(self, width):
        name = printable(self.host["name"])
        if not self.trouble:
            return ["%-*s  ok      %s" % (width, name, ", ".join(self.facts))]
        reason, text = self.trouble
        advice = ADVICE.get(reason, "See the log of its daemon, and `distcc_lm.py status` there.")
        return ["%-*s  FAILED  %s" % (width, name, printable(text)), "%-*s          %s" % (width, "", advice)]


def run_checks(checks):
    """All at once, since a dead host takes its time; says on stderr whom it waits for. Yields them as listed."""
    threads = [threading.Thread(target=check.run, daemon=True) for check in checks]
    for thread in threads:
        thread.start()
    due = time.monotonic() + 1.0
    for check, thread in zip(checks, threads):
        while thread.is_alive():
            thread.join(max(due - time.monotonic(), 0.01))
            if time.monotonic() >= due:
                waiting = [c for c, t in zip(checks, threads) if t.is_alive()]
                if waiting:
                    print("waiting for %s: %s, first of them %s" % (
                        counted(len(waiting), "host"), printable(waiting[0].host["name"]), waiting[0].step),
                        file=sys.stderr, flush=True)
                due = time.monotonic() + 2.0
        yield check


def settled_status():
    """The status, once the peers of a daemon that has just started had time to report."""
    while True:
        status = ask_daemon("status")
        unheard = any(host["state"] == "down" and host["report_age_s"] is None and host["kind"] == "peer"
                      for host in status["hosts"])
        if not unheard or status["daemon"]["uptime_s"] > PEER_TIMEOUT_S:
            return status
        time.sleep(0.1)


def check_hosts(compiler):
    """`check`. Exit status: 1 if a host failed, or there is none."""
    status, sockets = settled_status(), daemon_sockets()
    print("this box: daemon %s at %s, pid %d; sockets tried: %s" % (
        status["version"], status["daemon"]["address"], status["daemon"]["pid"], ", ".join(sockets)))
    hosts = [host for host in status["hosts"] if host["kind"] != "local"]
    if not hosts:
        print("no host to check: start the daemon with --peer, --use or --hosts")
        return 1
    compiler = compiler or next((name for name in ("gcc", "cc", "clang") if shutil.which(name)), "gcc")
    with tempfile.TemporaryDirectory(prefix="distcc_lm-check-") as folder:
        job = TestJob(compiler, folder)
        print("compiler: %s, identity %s" % (job.invocation.program, job.identity), flush=True)
        width, failed = max(len(printable(host["name"])) for host in hosts), 0
        for check in run_checks([HostCheck(host, job, sockets) for host in hosts]):
            print("\n".join(check.lines(width)), flush=True)
            failed += bool(check.trouble)
        os.close(job.fd)
    print("%s, %d failed" % (counted(len(hosts), "host"), failed))
    return 1 if failed else 0


# ==== 13. Install ===================================================================================================
# Puts the program where builds find it: a launcher, links by the compilers' names, what Python compiles of it, and the
# unit of a service manager. Uses 4, 10 and 11.

COMMON_COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "clang++")
UNIT = """\
# Made by `distcc_lm.py install --unit`. Options stand in /etc/distcc_lm.conf, one a line:
#     --allow 192.168.1.0/24
#     --peer build1
[Unit]
Description=Load management for distcc
Documentation=man:distcc(1)
After=network-online.target
Wants=network-online.target
AssertPathExists=/etc/distcc_lm.conf

[Service]
Type=notify
ExecStart="{program}" daemon @/etc/distcc_lm.conf
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=2
TimeoutStopSec=20
KillMode=mixed
RuntimeDirectory=distcc_lm
StateDirectory=distcc_lm
# Compilers run as the daemon's --user, which it becomes by itself; nothing else of root's powers is left to it.
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_SYS_NICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self
UMask=0022

[Install]
WantedBy=multi-user.target
"""


def unit_text():
    program = os.path.realpath(__file__)
    return UNIT.replace("{program}", program.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%"))


def launcher_python():
    """The interpreter that the head of this file picks."""
    named = os.environ.get("DISTCC_LM_PYTHON") or "/usr/bin/python3"
    found = named if os.access(named, os.X_OK) else shutil.which("python3")
    if not found:
        raise UsageError("there is neither %s nor a python3 on PATH; DISTCC_LM_PYTHON names another" % named)
    return found


def compile_for(python):
    """Have that interpreter leave the compiled parts beside the program. What a client's start then finds: "cached" or
    "reparsed"."""
    path = os.path.realpath(__file__)
    script = ("import sys; sys.path.insert(0, sys.argv[1])\nimport distcc_lm as d\nd.import_daemon_modules()\n"
              "d.client_start() == 'cached' or d.compile_this_file()\nprint(d.client_start())")
    done = subprocess.run([python, "-IS", "-c", script, os.path.dirname(path)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    return done.stdout.decode().strip() if done.returncode == 0 else "reparsed"


def is_ours(path):
    """Whether this is a link to this program, or one to a distcc_lm.py that is gone."""
    if not os.path.islink(path):
        return False
    if os.path.exists(path):
        return os.path.samefile(path, __file__)
    return os.path.basename(os.readlink(path)) == LAUNCHER


def try_compiler(folder, name):
    """A compile through the link, as make would do it. Raises UsageError."""
    with tempfile.TemporaryDirectory(prefix="distcc_lm-install-") as work:
        with open(os.path.join(work, "try.c"), "w") as file:
            file.write("int answer(void) { return 42; }\n")
        path = folder + os.pathsep + os.environ.get("PATH", os.defpath)
        done = subprocess.run([os.path.join(folder, name), "-c", "try.c", "-o", "try.o"], cwd=work,
                              env=dict(os.environ, PATH=path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, check=False)
        if done.returncode or not os.path.exists(os.path.join(work, "try.o")):
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["exit status %d" % done.returncode]
            raise UsageError("%s/%s does not compile: %s" % (folder, name, said[0]))


def install_links(folder, names):
    """Launcher and masquerade links. Exit status. Nothing is made where something else is in the way."""
    program = os.path.realpath(__file__)
    for name in names:
        if "/" in name or family_of(name) is None:
            raise UsageError("%s: no name of a compiler: gcc, g++, cc, clang, x86_64-linux-gnu-gcc-12 ..." % name)
    if not names:
        on_path = [d for d in os.get_exec_path() if os.path.realpath(d) != os.path.realpath(folder)]
        names = [name for name in COMMON_COMPILERS if shutil.which(name, path=os.pathsep.join(on_path))]
    if not os.access(program, os.X_OK):
        raise UsageError("%s: is not executable (chmod +x)" % program)
    wanted = [os.path.join(folder, name) for name in (LAUNCHER, *names)]
    for path in wanted:
        if os.path.lexists(path) and not is_ours(path) and os.path.realpath(path) != program:
            raise UsageError("%s: exists and is no link to %s; nothing was made" % (path, program))
    try:
        os.makedirs(folder, exist_ok=True)
        for path in wanted:
            if not os.path.lexists(path):
                os.symlink(os.path.relpath(program, os.path.realpath(folder)), path)
    except OSError as error:
        raise UsageError("%s: %s" % (error.filename2 or error.filename, error.strerror)) from None
    python = launcher_python()
    state = compile_for(python)
    for name in names[:1]:
        try_compiler(folder, name)
    print("%s: %s\nprogram: %s\ninterpreter: %s, %s\nfor your shell: export PATH=%s:$PATH" % (
        folder, " ".join((LAUNCHER, *names)), program, python,
        "compiled" if state == "cached" else "NOT compiled: %s cannot be written, each compile starts 3 to 40 ms later"
        % os.path.join(os.path.dirname(program), "__pycache__"), os.path.abspath(folder)))
    return 0


def remove_links(folder):
    """Undo install_links(); what is not ours stays. Exit status."""
    try:
        ours = [name for name in sorted(os.listdir(folder)) if is_ours(os.path.join(folder, name))]
        for name in ours:
            os.unlink(os.path.join(folder, name))
        if not os.listdir(folder):
            os.rmdir(folder)
    except OSError as error:
        raise UsageError("%s: %s" % (error.filename or folder, error.strerror)) from None
    print("%s: removed %s" % (folder, " ".join(ours) or "nothing: there is no link of ours"))
    return 0 if ours else 1


# ==== 14. CLI =======================================================================================================
# The commands and their options. `cc` and masquerade links are told apart first, before anything else is imported.

def option_error(text):
    print("distcc_lm: %s" % text, file=sys.stderr)
    return 2


def ranged(low, high, what):
    """An argparse type: a whole number from low to high."""
    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise UsageError("%r is no %s (%d to %d)" % (text, what, low, high))
        return number
    return parse


def interval(text):
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.05 <= number <= 86400:
        raise UsageError("%r is no number of seconds (0.05 to 86400)" % text)
    return number


def network(text):
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError("%r is no network: ADDRESS or ADDRESS/BITS" % text) from None


def used_network(text):
    """(network, port) of NET, NET:PORT, [NET] or [NET]:PORT."""
    body, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        body, _, rest = text[1:].partition("]")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        body, port = text.split(":")
    return network(body), ranged(1, 65535, "port")(port)


def listen_address(text):
    endpoint = parse_endpoint(text) if not text.endswith(":0") else Endpoint((parse_endpoint(text[:-2])[0], 0))
    try:
        ipaddress.ip_address(endpoint[0].partition("%")[0])
    except ValueError:
        raise UsageError("--listen %s: an address, not a name" % text) from None
    return endpoint


def broadcast_address(text):
    try:
        return "" if text == "none" else str(ipaddress.IPv4Address(text))
    except ValueError:
        raise UsageError("--broadcast %s: an IPv4 address or none" % text) from None


def option_line(line):
    """A line of an @FILE: an option and its value, nothing, or a comment."""
    line = line.strip()
    return line.split(None, 1) if line and not line.startswith("#") else []


def daemon_options(parser):
    add = parser.add_argument
    add("--listen", action="append", type=listen_address, metavar="ADDR[:PORT]",
        help="UDP load reports and, with --allow, TCP jobs on this address (0.0.0.0:3632; port 0: any; repeatable)")
    add("--socket", metavar="PATH", help="unix socket for this box's clients")
    add("--slots", type=ranged(1, 9999, "number of slots"), metavar="N",
        help="jobs at once, remote and local (usable CPUs)")
    add("--allow", action="append", type=network, default=[], metavar="NET",
        help="serve jobs from this network (repeatable)")
    add("--peer", action="append", type=parse_endpoint, default=[], metavar="HOST[:PORT]",
        help="a daemon to send jobs to (repeatable)")
    add("--use", action="append", type=used_network, default=[], metavar="NET[:PORT]",
        help="believe load reports from this network and send jobs there (repeatable)")
    add("--hosts", metavar="LIST", help="plain distccd servers, as in DISTCC_HOSTS (default: as distcc finds its list)")
    add("--broadcast", type=broadcast_address, metavar="ADDR|none",
        help="where load reports are broadcast (255.255.255.255 where --allow, --use or a secret is given,"
        " else none)")
    add("--secret-file", metavar="FILE", help="key shared by the farm, instead of --peer and --use: who has it is sent"
        " jobs to, and of --allow only who has it is served")
    add("--plain", action="store_true", help="with a secret: serve distcc clients of --allow all the same")
    add("--user", default="nobody", metavar="NAME", help="run compilers as this user when started as root (nobody)")
    add("--nice", type=ranged(-20, 19, "niceness"), default=10, metavar="N", help="niceness of compilers (10)")
    add("--job-timeout", type=ranged(1, 1_000_000, "number of seconds"), default=600, metavar="S",
        help="kill compilers that take longer (600)")
    add("--min-memory", type=ranged(0, 10_000_000, "number of MB"), default=512, metavar="MB",
        help="take no jobs with less memory available (512)")
    add("--max-job-mb", type=ranged(1, 1_000_000, "number of MB"), default=512, metavar="MB",
        help="largest source, and largest object (512)")
    add("--tmpdir", metavar="DIR", help="where jobs get their private folders (TMPDIR or /tmp)")
    add("--compilers", action="append", default=[], metavar="DIR",
        help="offer only the compilers linked in DIR (repeatable)")
    add("--contain", choices=("auto", "require", "off"), default="auto", help="Landlock round the compilers (auto)")
    add("--state", metavar="FILE", help="learnt speeds, kept across restarts")
    add("--procfs", default="/proc", metavar="DIR", help="read load, memory and cores under DIR (/proc)")
    add("--log-level", choices=Loop.LEVELS, default="info", help="error, warning, info or debug (info)")
    add("--log-file", metavar="F", help="log there instead of to stderr")
    add("--pid-file", metavar="F", help="write the pid there")
    add("--detach", action="store_true", help="go to the background once all is bound")


def command_line_parser():
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise UsageError("%s (try %s --help)" % (message, self.prog))

    parser = Parser(prog="distcc_lm.py", epilog="`distcc_lm.py cc COMPILER ARG...` compiles; see README.",
                    description="Load management for distcc: a compile goes to the host that will be done first.")
    parser.add_argument("--version", action="version", version="distcc_lm " + VERSION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    daemon = commands.add_parser("daemon", help="run this box's daemon", fromfile_prefix_chars="@",
                                 epilog="@FILE takes options from a file, one a line.")
    daemon.convert_arg_line_to_args = option_line
    daemon_options(daemon)
    compile_ = commands.add_parser("cc", help="compile: cc COMPILER ARG...")
    compile_.add_argument("words", nargs="*", metavar="COMPILER ARG", help="the compiler command; exits as it would")
    status = commands.add_parser("status", help="hosts, jobs, and why jobs stayed here")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.add_argument("--metrics", action="store_true", help="OpenMetrics text, as for a textfile collector")
    status.add_argument("--html", metavar="FILE", help="write a page with charts to FILE (-: stdout)")
    status.add_argument("--watch", nargs="?", const=1.0, type=interval, metavar="S",
                        help="again every S seconds (1), on a terminal in place; q quits")
    why = commands.add_parser("why", help="the last decisions: candidates, costs, outcome")
    why.add_argument("which", nargs="?", default="", metavar="N|FILE")
    explain = commands.add_parser("explain", help="would this command be distributed, and if not why")
    explain.add_argument("words", nargs="*", metavar="COMPILER ARG", help="the compiler command")
    commands.add_parser("jobs", help="a number for make -j")
    drain = commands.add_parser("drain", help="take no new jobs of others; off: take them again")
    drain.add_argument("switch", nargs="?", choices=("on", "off"), default="on")
    drain.add_argument("--wait", action="store_true", help="return when the last job of others has ended")
    check = commands.add_parser("check", help="probe every host end to end, and say what to do about what fails")
    check.add_argument("compiler", nargs="?", metavar="COMPILER", help="compiler to check with (gcc, cc or clang)")
    install = commands.add_parser("install", help="launcher and links by the compilers' names, or a systemd unit")
    install.add_argument("folder", nargs="?", metavar="DIR", help="where the links go; put it first on PATH")
    install.add_argument("names", nargs="*", metavar="NAME",
                         help="names of compilers (those of gcc, g++, cc, c++, clang, clang++ that are there)")
    install.add_argument("--unit", action="store_true", help="print a systemd unit for the daemon")
    install.add_argument("--remove", metavar="DIR", help="remove the links from DIR")
    return parser


def daemon_config(options):
    """Fill in the defaults that depend on other options. Raises UsageError."""
    options.listen = options.listen or [Endpoint(("0.0.0.0", DEFAULT_PORT))]
    options.socket = options.socket or default_sockets(os.geteuid(), os.environ)[0]
    if len(os.fsencode(options.socket)) > 107:
        raise UsageError("--socket %s: longer than a unix socket's path may be (107 bytes)" % options.socket)
    options.tmpdir = options.tmpdir or os.environ.get("TMPDIR") or "/tmp"
    options.state = options.state or default_state_path(options.listen[0])
    if options.broadcast is None:
        options.broadcast = "255.255.255.255" if options.allow or options.use or options.secret_file else ""
    if options.hosts is not None:
        HostList(options.hosts)
    if options.procfs != "/proc" and not os.path.isdir(options.procfs):
        raise UsageError("--procfs %s: no such folder" % options.procfs)
    return options


def explain_command(words):
    """The verdict of `explain`, and its lines. Exit status."""
    if not words:
        raise UsageError("explain takes a compiler command")
    invocation = Invocation(words, dict(posix.environ), False, None)
    if not invocation.find():
        print("local: %s: command not found" % words[0])
        return 0
    try:
        if invocation.family is None:
            raise RunLocally("compiler-script", invocation.program)
        command = invocation.command()
        identity = invocation.identity()
        if not identity:
            name = "compiler-script" if identity == "" else "compiler-silent"
            raise RunLocally(name, invocation.program)
    except (RunLocally, OSError) as refusal:                # the latter: the folder is gone
        print("local: %s" % refusal)
        return 0
    if invocation.variable("DISTCC_LM_DISABLE") == "1":
        print("local: DISTCC_LM_DISABLE=1 is set")
        return 0
    print("distribute\ninput: %s\noutput: %s" % (command.source, command.output))
    if command.depfile:
        print("dependencies: %s" % command.depfile)
    if not command.preprocessed:
        print("preprocess: %s" % shell_words([words[0]] + command.preprocess_args("plain", "/dev/fd/N")))
    print("remote: %s" % shell_words([words[0]] + command.remote_args("plain", os.getcwd())))
    print("By its arguments; what the file contains may still keep it here (.incbin, #pragma GCC target, messages).")
    return 0


def shell_words(words):
    import shlex
    return " ".join(shlex.quote(word) for word in words)


def show_status(options, width):
    """`status` in the form asked for. Exit status."""
    if sum(map(bool, (options.json, options.metrics, options.html))) > 1 or options.html and options.watch:
        raise UsageError("status takes one of --json, --metrics and --html FILE, and --watch not with --html")
    if options.html:
        write_page(options.html)
        return 0

    def text(status):
        return (json.dumps(status, indent=1) if options.json else
                "\n".join(metric_lines(status) if options.metrics else status_lines(status, width)))
    if options.watch:
        return watch_status(options.watch, text, in_place=not (options.json or options.metrics))
    print(text(ask_daemon("status", *(["past"] if options.json else []))))
    return 0


def install_command(options):
    if bool(options.folder) + options.unit + bool(options.remove) != 1:
        raise UsageError("install takes one of DIR [NAME...], --unit and --remove DIR")
    if options.unit:
        print(unit_text(), end="")
        return 0
    return remove_links(options.remove) if options.remove else install_links(options.folder, options.names)


def drain_command(options):
    """Exit status 0, with --wait once nobody else's job runs here."""
    ask_daemon("drain", options.switch)
    print("draining: no new jobs of others are taken" if options.switch == "on" else "taking jobs again", flush=True)
    due = time.monotonic() + 1.0
    while options.wait and options.switch == "on":
        here = ask_daemon("status")["hosts"][0]
        left = here["running"] - here["mine"] + here["waiting"]
        if not left:
            print("no job of others is left")
            break
        if time.monotonic() >= due:
            print("waiting for %s of others" % counted(left, "job"), file=sys.stderr, flush=True)
            due += 5.0
        time.sleep(0.1)
    return 0


def run_command(options):
    """Everything but daemon and cc. Exit status."""
    width = max(shutil.get_terminal_size((80, 24)).columns, 40)
    if options.command == "status":
        return show_status(options, width)
    if options.command == "why":
        print("\n".join(why_lines(ask_daemon("why", options.which), width)))
    if options.command == "check":
        return check_hosts(options.compiler)
    if options.command == "install":
        return install_command(options)
    if options.command == "drain":
        return drain_command(options)
    if options.command == "jobs":
        try:
            print(ask_daemon("jobs"))
        except NoDaemon as error:
            print("distcc_lm: %s; counting this box's CPUs" % error, file=sys.stderr)
            print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return 0


def run_line(words):
    """Dispatch all commands but cc. Exit status: 0, 1 it failed, 2 usage or no daemon."""
    import_daemon_modules()
    gc.enable()                                             # the header has it off: 0.1 ms of a client's start
    try:
        if words[:1] == ["explain"] and words[1:] not in (["--help"], ["-h"]):
            return explain_command(words[1:])
        parser = command_line_parser()
        options = parser.parse_args(words)
        if options.command is None:
            parser.print_help()
            return 2
        if options.command == "cc":
            raise UsageError("cc takes a compiler and its arguments: cc gcc -c x.c")
        if options.command == "daemon":
            return run_daemon(daemon_config(options))
        return run_command(options)
    except (UsageError, NoDaemon) as error:
        return option_error(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130


def main(argv, caller=None):
    """argv[0] is the name that was called; `caller` as in client_main(). Exits."""
    if sys.version_info < (3, 9):
        sys.exit("distcc_lm needs Python 3.9 or newer, this is %d.%d; DISTCC_LM_PYTHON names another"
                 % sys.version_info[:2])
    client_main(argv, caller)
    occupy_streams()
    import _signal
    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:        # which the header made of it
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    sys.exit(run_line(argv[1:]))


if __name__ == "__main__":
    main(sys.argv)
