"""What it saves that a judge on a server reads the first answers while the policy writes the next.

    python benchmarks/remote_judge.py [--questions 192] [--latency 0.6]
    python benchmarks/remote_judge.py --quick     # 16 questions

The embedded policy answers the starter pack's questions, 40 tokens each, greedily; a rubric judge asks a chat-completions
server on loopback, which answers after `--latency` seconds, yes or no by the digest of what it was asked: it stands for a
server elsewhere, and costs this machine next to nothing. Printed: seconds with the judge after the policy and beside it,
each from an empty folder; their ratio; and whether both wrote the same files.
"""

import argparse
import json
import math
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from iteralign.config import DataConfig, OpenAIConfig, RubricConfig, SamplingConfig, TransformersConfig
from iteralign.data import load_prompts
from iteralign.judges.rubric import Rubric
from iteralign.models.base import Model
from iteralign.models.load import load_model
from iteralign.records import Prompt, digest
from iteralign.stages.respond import answered_and_judged, respond
from iteralign.store import Store

SAMPLING = SamplingConfig(temperature=0.0, max_new_tokens=40)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    latency = 0.0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert isinstance(self.server, Server)
        time.sleep(self.server.latency)
        said = ("yes", "no")[int(digest(asked["messages"][-1]["content"]), 16) % 2]
        token = {"token": said, "logprob": math.log(0.9)}
        choice = {
            "message": {"role": "assistant", "content": said},
            "finish_reason": "stop",
            "logprobs": {"content": [{**token, "top_logprobs": [token]}]},
        }
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=192)
    arguments.add_argument("--latency", type=float, default=0.6, help="seconds until the server answers a call")
    arguments.add_argument("--quick", action="store_true")
    options = arguments.parse_args()
    source = DataConfig.model_validate({"source": "pack:starter/red_team", "wants": "decline"})
    prompts = load_prompts(source, 0)[: 16 if options.quick else options.questions]
    policy = load_model(TransformersConfig(model="policy", batch=64))
    respond(prompts[:2], policy, SAMPLING, 0, 0)  # what the first call loads is not counted
    server = Server(("127.0.0.1", 0), Handler)
    server.latency = options.latency
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = OpenAIConfig(model="judge", base_url=f"http://127.0.0.1:{server.server_port}/v1", key_env=None)
    seconds, written = zip(*(measured(prompts, policy, where, elsewhere) for elsewhere in (False, True)), strict=True)
    print(f"{len(prompts)} questions; judge after the policy {seconds[0]:.1f} s, beside it {seconds[1]:.1f} s")
    print(f"ratio {seconds[0] / seconds[1]:.2f}")
    same = written[0] == written[1]
    print(f"same result: {'yes' if same else 'NO'}, the files of both are {'equal' if same else 'different'}")
    raise SystemExit(not same)


def measured(
    prompts: list[Prompt], policy: Model, where: OpenAIConfig, elsewhere: bool
) -> tuple[float, dict[str, bytes]]:
    judge, batch = Rubric(RubricConfig(model=where), load_model(where)), max(8, len(prompts) // 8)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        answered_and_judged(
            Store(Path(folder), micro_batch=batch),
            prompts,
            lambda part: respond(part, policy, SAMPLING, 0, 0),
            judge,
            batch=batch,
            elsewhere=elsewhere,
        )
        spent = time.perf_counter() - start
        return spent, {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


if __name__ == "__main__":
    main()
