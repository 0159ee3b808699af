# SPDX-License-Identifier: Apache-2.0
"""A component beside NVFlare's own FedAvg: notes when rounds begin and what was aggregated."""
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.np.constants import NPConstants
from updates import Log


class Watch(FLComponent):
    def __init__(self):
        super().__init__()
        self.log = Log()

    def handle_event(self, event_type, fl_ctx):
        if event_type == AppEventType.ROUND_STARTED:
            self.log.begin()
        elif event_type == AppEventType.AFTER_AGGREGATION:
            result = fl_ctx.get_prop(AppConstants.AGGREGATION_RESULT)
            self.log.aggregated(result.params[NPConstants.NUMPY_KEY])
        elif event_type in (EventType.END_WORKFLOW, EventType.ABOUT_TO_END_RUN):
            self.log.end()
