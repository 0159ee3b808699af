# SPDX-License-Identifier: Apache-2.0
"""submit.py KIT JOB CLIENTS LIMIT_S: submits once all clients are there, and waits for the end."""
import sys
import time

from nvflare.fuel.flare_api.flare_api import new_secure_session


def main(kit, job, clients, limit_s):
    end = time.monotonic() + limit_s
    session = new_secure_session("admin@consilium.test", kit, timeout=60)
    try:
        while len(session.get_connected_client_list()) < clients:
            if time.monotonic() > end:
                sys.exit("not all clients came")
            time.sleep(0.5)
        job_id = session.submit_job(job)
        print("submitted", job_id, flush=True)
        print(session.monitor_job_and_return_job_meta(job_id, timeout=end - time.monotonic()))
    finally:
        session.close()


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
