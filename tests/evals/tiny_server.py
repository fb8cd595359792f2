"""A small real completions server over a tiny checkpoint, with faults on request.

As a script (``python tiny_server.py PORT MODEL [FAULT]``) it serves no checkpoint, only its own name: what a process
that is started, watched and ended needs to be.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evals.engines.identity import PROBE


class TinyServer(ThreadingHTTPServer):
    """Serves ``/v1/models`` and ``/v1/completions`` for token-id prompts: greedy, ``echo`` with
    ``logprobs``, or ``logprob_token_ids``.

    Attributes:
        faults: number of a request (from 0) → ``500``, ``drop``, ``garbage``, ``400``, ``forget logprobs``.
        asked: the prompts of the requests that got an answer. The probe of what is served is none of them.
        says: what it says of itself, by address.
    """

    daemon_threads = True

    def __init__(self, checkpoint: Path, port: int = 0) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        super().__init__(("127.0.0.1", port), _Handler)
        self.torch = torch
        self.checkpoint = checkpoint
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.faults: dict[int, str] = {}
        self.says: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[int, ...]] = []
        self.count = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def complete(self, request: dict[str, Any]) -> dict[str, Any]:
        torch = self.torch
        prompt = torch.tensor([request["prompt"]])
        with torch.no_grad():
            if labels := request.get("logprob_token_ids"):
                scores_V = self.model(prompt).logits[0, -1].log_softmax(-1)
                top = {f"token_id:{token}": scores_V[token].item() for token in [*labels, int(scores_V.argmax())]}
                return {"choices": [{"index": 0, "text": "", "logprobs": {"top_logprobs": [top]}}]}
            if not request.get("echo"):
                new = self.model.generate(prompt, max_new_tokens=request["max_tokens"], do_sample=False)
                text = self.tokenizer.decode(new[0, prompt.shape[1] :], skip_special_tokens=True)
                for stop in request.get("stop", []):
                    text = text.split(stop)[0]
                return {"choices": [{"index": 0, "text": text}]}
            scores_TV = self.model(prompt).logits[0].log_softmax(-1)
        chosen = [None, *scores_TV[:-1].gather(1, prompt[0, 1:, None])[:, 0].tolist(), 0.0]
        best, which = scores_TV.max(-1)
        top = [None, *({f"token_id:{w}": b} for w, b in zip(which.tolist(), best.tolist(), strict=True))]
        for position in range(1, len(request["prompt"])):
            top[position][f"token_id:{request['prompt'][position]}"] = chosen[position]
        return {"choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": chosen, "top_logprobs": top}}]}


class _Handler(BaseHTTPRequestHandler):
    server: TinyServer

    def do_GET(self) -> None:
        if self.path in self.server.says:
            self._send(self.server.says[self.path])
            return
        if self.path != "/v1/models":
            self.send_error(404)
            return
        self._send(
            {
                "data": [
                    {
                        "id": "tiny",
                        "root": str(self.server.checkpoint),
                        "max_model_len": self.server.model.config.max_position_embeddings,
                    }
                ]
            }
        )

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if request["prompt"] == PROBE:
            self._send(self.server.complete(request))
            return
        with self.server.lock:
            fault = self.server.faults.get(self.server.count)
            self.server.count += 1
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault and fault.isdigit():
                self.send_error(int(fault), "as the test wants it")
                return
            answer = self.server.complete(request)
            if fault == "forget logprobs":
                del answer["choices"][0]["logprobs"]
            self.server.asked.append(tuple(request["prompt"]))
        self._send({} if fault == "garbage" else answer)

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _NameHandler(BaseHTTPRequestHandler):
    model = ""

    def do_GET(self) -> None:
        data = json.dumps({"data": [{"id": self.model}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    import subprocess

    port, _NameHandler.model = int(sys.argv[1]), sys.argv[2]
    if sys.argv[3:] == ["dies"]:
        sys.exit("the weights are damaged")
    # A helper that outlives its parent unless somebody ends the whole group, as a real server's workers can.
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    print("helper", helper.pid, flush=True)
    ThreadingHTTPServer(("127.0.0.1", port), _NameHandler).serve_forever()
