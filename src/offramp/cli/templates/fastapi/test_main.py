"""Run with: python -m pytest. The gateway is a real one, with its data in .offramp."""

from fastapi.testclient import TestClient
from main import api


def test_a_question_is_answered() -> None:
    with TestClient(api) as client:
        assert client.get("/ask", params={"question": "Why?"}).json().startswith("Why? 2 notes say it")
        run = client.get("/agents/v1/runs").json()["runs"][0]
        assert (run["pipeline"], run["status"], run["path"]) == ("research", "completed", "fast")
