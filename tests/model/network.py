"""Network: requests on their way to the bus, and answers on their way back; both may be lost, late or repeated."""

from dataclasses import dataclass

from eventlog.wakes import Nothing
from tests.model.bus import Ask, Bus, Granted, Report

Reply = Granted | Nothing | str


@dataclass(frozen=True)
class Request:
    """One request; `number` is its own, repeated ones have the same."""

    number: int
    sender: str
    body: Ask | Report


@dataclass(frozen=True)
class Answer:
    """The answer to the request of that number."""

    number: int
    sender: str
    reply: Reply


class Network:
    """What is on its way."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        self._numbers = 0

    def send(self, sender: str, body: Ask | Report) -> Request:
        """A request sets out."""
        self._numbers += 1
        request = Request(self._numbers, sender, body)
        self.requests.append(request)
        return request

    def reach(self, bus: Bus, request: Request) -> Reply:
        """The request reaches the bus, and its answer sets out."""
        self.requests.remove(request)
        reply = bus.ask(request.body) if isinstance(request.body, Ask) else bus.report(request.body)
        self.answers.append(Answer(request.number, request.sender, reply))
        return reply

    def answer_to(self, request: Request | None) -> Answer | None:
        """The answer that is on its way to this request's sender."""
        if request is None:
            return None
        return next((answer for answer in self.answers if answer.number == request.number), None)

    def forget_answers(self, sender: str) -> None:
        """The sender's connections are gone, and with them what was on its way to it."""
        self.answers = [answer for answer in self.answers if answer.sender != sender]
