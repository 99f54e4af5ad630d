"""Names of the files in a run directory, for the packages that read or write them.

``runs.RunDirectory`` builds every path from these names; packages below ``runs`` (``train``, ``lm``) use the names
themselves.
"""

SETTINGS = "run.toml"
LOCK = ".lock"
MARK = ".firstlight-run"
TOKENIZER = "tokenizer"
DATA = "data"
EMBEDDINGS = "embeddings"
BASE = "base"
ROWS = "rows"
CHECKPOINTS = "checkpoints"
LATEST = "latest"
BEST = "best"
EMA = "average"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
EVENTS = "events.jsonl"
TENSORBOARD = "tensorboard"
STATE = "state.json"
COMPATIBILITY = "contract.json"
ENVIRONMENT = "environment.json"
EVALUATION = "evaluation.json"
TASKS = "tasks.json"
INITIAL_LOSS = "before.json"
COLLAPSED_STARTS = "collapsed.json"
REPORT = "report.html"
# Of a folder of several runs.
SEARCH = "search.json"
SEEDS = "seeds.json"
