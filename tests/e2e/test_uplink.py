# SPDX-License-Identifier: Apache-2.0
"""What a regional hub sends up in a round is one update, however many children it has."""
import json
import subprocess
import unittest

import federation


class Uplink(unittest.TestCase):
    def test_a_round_goes_up_as_one_update_whatever_the_fan_in(self):
        for children in (2, 8, 32):
            with self.subTest(children=children):
                done = subprocess.run([federation.program("consilium-bench"), "uplink", "--children",
                                       str(children), "--json"], capture_output=True, text=True,
                                      env=federation.clean_environment(), timeout=200)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                figures = json.loads(done.stdout)
                self.assertLessEqual(figures["detail"]["sealed_ratio"], 1.02, done.stdout)
                self.assertLessEqual(figures["detail"]["sealed_to_f32"], 1.25, done.stdout)


if __name__ == "__main__":
    unittest.main()
