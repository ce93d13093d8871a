"""Upper bounds: more data at once than a learner in the setting would have."""

from fourfold.experience import Experience, Run
from fourfold.methods.finetune import Finetune


class Joint(Finetune):
    """Trains on the union of all contexts, shuffled, with the whole stream's number of updates, at the first call:
    where samples come once, as many as the contexts one by one would have.

    Later calls find nothing left to do.
    """

    def learn(self, experience: Experience, run: Run) -> None:
        if experience.number == 0:
            super().learn(experience.everything(), run)


class Cumulative(Finetune):
    """In each context trains on the union of all contexts so far, going on from the network as it is.

    The number of updates a context is that of other methods (van de Ven, Tuytelaars & Tolias 2022).
    """

    def learn(self, experience: Experience, run: Run) -> None:
        super().learn(experience.so_far(), run)
