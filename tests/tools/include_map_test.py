"""tools/include_map on small planted checkouts: each rule of tools/layers.txt is broken once, and the message read."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

TOOL, LAYERS = sys.argv[1], sys.argv[2]

# A checkout without a fault, with every kind of file that a rule speaks of.
SOUND = {
    "common/base/logging.h": "#include <glog/logging.h>\n",
    "common/base/clock.h": "",
    "common/config/hostfile.h": '#include "common/base/clock.h"\n',
    "common/plan/shard_plan.h": "#include <vector>\n",
    "common/plan/shard_plan.cc": '#include "common/plan/shard_plan.h"\n#include "common/base/logging.h"\n'
                                 "// LOG( in a comment is no log\nint a() { CHECK(true); return snprintf(0, 0, \"\"); }\n",
    "common/rpc/channel.h": "#include <grpcpp/grpcpp.h>\n",
    "launcher/coordinator/coordinator.h": '#include "proto/job.pb.h"\n#include "absl/time/time.h"\n',
    "launcher/shell/launch_job.h": '#include "launcher/coordinator/coordinator.h"\n',
    "launcher/commands/train.h": '#include "launcher/shell/launch_job.h"\n#include "common/config/hostfile.h"\n',
    "launcher/dsrun_main.cc": '#include "launcher/commands/train.h"\n',
    "agent/supervisor.h": "",
    "agent/agent_service.cc": '#include "proto/agent_service.grpc.pb.h"\n',
    "agent/posix_runner.h": "",
    "agent/dsagent_main.cc": '#include "agent/posix_runner.h"\n',
    "worker/device/kernels.h": "",
    "worker/device/cpu/cpu_kernels.h": '#include "worker/device/kernels.h"\n',
    "worker/device/cpu/cpu_kernels.cc": '#include "worker/device/cpu/cpu_kernels.h"\n',
    "worker/device/cuda_kernels.cu": "#include <cuda_runtime.h>\n",
    "worker/comm/gloo/gloo_communicator.cc": "#include <gloo/context.h>\n",
    "worker/engine/engine_factory.cc": '#include "worker/device/cpu/cpu_kernels.h"\n',
    "tests/worker/device/cpu_kernels_test.cc": '#include "worker/device/cpu/cpu_kernels.h"\n',
}


def plant(folder, files):
    for path, text in files.items():
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        with open(os.path.join(folder, path), "w", encoding="utf-8") as f:
            f.write(text)
    os.makedirs(os.path.join(folder, "tools"), exist_ok=True)
    with open(LAYERS, encoding="utf-8") as source, open(os.path.join(folder, "tools/layers.txt"), "w", encoding="utf-8") as f:
        f.write(source.read())


def run(files, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        plant(folder, files)
        done = subprocess.run([sys.executable, TOOL, "--root", folder, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


class IncludeMapTest(unittest.TestCase):
    def finds(self, path, text, *messages):
        """`path` with `text` instead of, or beside, the sound files: exactly these findings, in this order."""
        code, out, err = run({**SOUND, path: text})
        self.assertEqual(out.splitlines(), list(messages), err)
        self.assertEqual(code, 1)

    def test_sound_tree_passes(self):
        code, out, err = run(SOUND)
        self.assertEqual((code, err), (0, ""), out)
        self.assertRegex(out, r"^include_map: 21 files, \d+ includes: every arrow goes down\n$")

    def test_build_file_that_lets_everybody_in(self):
        code, out, _ = run({**SOUND, "worker/device/cpu/BUILD": 'package(default_visibility = ["//visibility:public"])\n'})
        self.assertEqual(code, 1)
        self.assertEqual(out, 'worker/device/cpu/BUILD:1: expected default_visibility = ["//bazel/users:worker_device"], '
                              'got default_visibility = ["//visibility:public"]\n'
                              "bazel/users/BUILD:1: not what tools/layers.txt says; write it again: tools/include_map --users\n")

    def test_users_are_those_above_and_none_that_stand_apart(self):
        with tempfile.TemporaryDirectory() as folder:
            plant(folder, {**SOUND, "agent/BUILD": 'package(default_visibility = [\n    "//bazel/users:agent",\n])\n'})
            subprocess.run([sys.executable, TOOL, "--root", folder, "--users"], check=True)
            with open(os.path.join(folder, "bazel/users/BUILD"), encoding="utf-8") as f:
                groups = {name: packages.split() for name, packages in
                          re.findall(r'name = "(\w+)",\n    packages = \[\n(.*?)    \]', f.read(), re.S)}
            self.assertEqual(groups["agent"], ['"//agent/...",', '"//tools/...",', '"//tests/...",', '"//bench/...",', '"//examples/...",'])
            self.assertNotIn('"//agent/...",', groups["common_config"])
            self.assertIn('"//launcher/...",', groups["common_config"])
            self.assertNotIn('"//common/base/...",', groups["floor_1b"])
            self.assertEqual(groups["launcher_commands"][:2], ['"//launcher/commands/...",', '"//launcher",'])
            done = subprocess.run([sys.executable, TOOL, "--root", folder], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_upward_arrow(self):
        self.finds("common/base/clock.h", '\n#include "common/plan/shard_plan.h"\n',
                   "common/base/clock.h:2: upward arrow: common/base (floor 0) includes common/plan/shard_plan.h (floor 1b)",
                   "circle of folders: common/base -> common/plan -> common/base")

    def test_upward_arrow_to_tests(self):
        code, out, _ = run({**SOUND, "tests/fakes/clock.h": "", "agent/supervisor.h": '#include "tests/fakes/clock.h"\n'})
        self.assertEqual(code, 1)
        self.assertEqual(out, "agent/supervisor.h:1: upward arrow: agent (floor 3) includes tests/fakes/clock.h (floor 4)\n")

    def test_sibling_programs(self):
        self.finds("worker/engine/session.h", '#include "agent/supervisor.h"\n',
                   "worker/engine/session.h:1: worker includes agent/supervisor.h: these programs meet on the wire, "
                   "put it in common/ or proto/")

    def test_configuration_text_is_for_the_launcher(self):
        self.finds("agent/supervisor.h", '#include "common/config/hostfile.h"\n',
                   "agent/supervisor.h:1: common/config/hostfile.h is not for agent; open to: launcher, tools, tests, bench")

    def test_inner_floors(self):
        self.finds("worker/device/kernels.h", '#include "worker/engine/session.h"\n',
                   "worker/device/kernels.h:1: includes worker/engine/session.h, which does not exist",
                   "worker/device/kernels.h:1: upward arrow inside worker: device includes worker/engine/session.h",
                   "circle of folders: worker/device/cpu -> worker/device -> worker/engine -> worker/device/cpu")

    def test_coordinator_core_does_not_know_its_shell(self):
        self.finds("launcher/coordinator/events.h", '#include "launcher/shell/launch_job.h"\n',
                   "launcher/coordinator/events.h:1: upward arrow inside launcher: coordinator includes launcher/shell/launch_job.h",
                   "circle of folders: launcher/shell -> launcher/coordinator -> launcher/shell")

    def test_doors(self):
        for path, include in (("launcher/shell/launch_job.h", "grpcpp/channel.h"), ("agent/supervisor.h", "proto/agent.grpc.pb.h"),
                              ("worker/comm/core/communicator.h", "gloo/context.h"), ("worker/device/kernels.h", "cuda_runtime.h"),
                              ("worker/comm/core/communicator.h", "nccl.h"), ("agent/supervisor.h", "glog/logging.h"),
                              ("common/rpc/channel.h", "absl/log/log.h")):
            with self.subTest(include=include):
                code, out, _ = run({**SOUND, path: f"#include <{include}>\n"})
                self.assertEqual(code, 1)
                self.assertIn(f"{path}:1: forbidden include {include}; only in: ", out)

    def test_concrete_class_is_chosen_once(self):
        self.finds("worker/engine/trainer.cc", '#include "worker/device/cpu/cpu_kernels.h"\n',
                   "worker/engine/trainer.cc:1: worker/device/cpu/cpu_kernels.h is a concrete class, forbidden here: include its "
                   "interface and let *_factory.cc or *_main.cc choose")

    def test_pure_room_includes_no_clock(self):
        for include in ("common/base/clock.h", "absl/time/clock.h", "chrono", "thread", "fstream", "sys/socket.h", "time.h"):
            with self.subTest(include=include):
                code, out, _ = run({**SOUND, "launcher/coordinator/coordinator.h": f"#include <{include}>\n"})
                self.assertEqual(code, 1)
                self.assertIn(f"launcher/coordinator/coordinator.h:1: a pure room, where {include} is forbidden", out)

    def test_family_of_models_stands_in_its_own_file(self):
        self.finds("worker/device/kernels.h", "// gpt2 in a comment\nint a = WTERMSIG(b);\nint CreateGpt2Block();\n",
                   "worker/device/kernels.h:3: Gpt2 is a word of common/model/*, launcher/commands/*, tests/*, bench/* alone")

    def test_pure_room_does_not_log(self):
        self.finds("common/plan/shard_plan.cc", 'void f() { LOG(INFO) << 1; }\n',
                   "common/plan/shard_plan.cc:1: a pure room, where LOG( is forbidden")
        self.finds("common/plan/shard_plan.cc", 'void f() { std::printf("x"); }\n',
                   "common/plan/shard_plan.cc:1: a pure room, where printf( is forbidden")

    def test_circle_of_files(self):
        self.finds("worker/device/kernels.h", '#include "worker/device/tile.h"\n',
                   "worker/device/kernels.h:1: includes worker/device/tile.h, which does not exist")
        code, out, _ = run({**SOUND, "worker/device/kernels.h": '#include "worker/device/tile.h"\n',
                            "worker/device/tile.h": '#include "worker/device/kernels.h"\n'})
        self.assertEqual(code, 1)
        self.assertEqual(out, "circle of files: worker/device/kernels.h -> worker/device/tile.h -> worker/device/kernels.h\n")

    def test_folder_without_a_floor(self):
        self.finds("extra/thing.h", "", "extra/thing.h:1: stands on no floor; add its folder to tools/layers.txt")
        self.finds("worker/extra/thing.h", "",
                   "worker/extra/thing.h:1: worker has inner floors and this folder is on none; add it to tools/layers.txt")

    def test_picture_shows_every_room_and_implied_arrows_are_left_out(self):
        code, out, _ = run(SOUND, "--svg", "-")
        self.assertEqual(code, 0)
        for room in ("common/base", "common/rpc", "agent", "coordinator", "engine", "bench"):
            self.assertIn(f">{room}</text>", out)
        # commands -> launcher -> coordinator, plan -> base, config -> base, commands -> config, coordinator -> proto,
        # engine -> device, tests -> device, agent -> proto: nothing else.
        self.assertEqual(out.count("<line "), 9)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
