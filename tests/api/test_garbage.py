"""The garbage collector does not stop a running service."""

from pathlib import Path

from tests.support.service import Service

# serves, and logs how many objects the collector visits and how many it leaves out
_SERVE = """
import gc, logging
from service import server
from service.config import read_settings

class Counted(server.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        objects = {"visited": len(gc.get_objects()), "left_out": gc.get_freeze_count()}
        logging.getLogger("test").info("objects", extra=objects)

server.Server = Counted
server.serve(read_settings())
"""


def test_the_objects_of_all_modules_are_not_collected(networks: dict[bool, Path]) -> None:
    service = Service(command=("-c", _SERVE), weights=networks[False])
    line = service.wait_for_log("objects")
    service.close()
    assert line["left_out"] > 50_000
    assert line["visited"] < 5_000
