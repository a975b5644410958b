// Plays a story: lines "> command" go into a Coordinator, the actions come out as a transcript.
// Lines that begin with '#' and empty lines are kept; all others are transcript.
//
//   > job train nodes=alpha:2,beta:2 blocks=4 [max_restarts=5] [max_without_progress=3]
//                             [window=86400], in which restarts count, in seconds
//                             [memory=checked]
//   > start
//   > opened 0                  or: gone 0 UNAVAILABLE connection refused
//   > tick 1.5                  seconds; every open node was heard from, unless heard=0,2 or heard=
//   > prepared 0 g=1            or: all prepared g=1 (every node that got a Begin or Prepare);
//                               port=N: reserved for rank 0 of a program; no_port=WHY
//                               with memory in MiB: total=500 available=300 ranks=100 boot=x
//                               cgroup=/a
//   > joined 0.1 g=1 step=0     node.slot; or: all joined g=1 step=0 (every rank of the plan)
//   > started | put | step | checkpoint | failed | finished | exited | notice 0.1 g=1 key=value ...
//   > stop
//   > jobended 0
//   > report                    or: state, digest
//
// What no short command says, as StoryWriter writes it (story_writer.h):
//
//   > config job_id: "j" nodes { ...      instead of job: a JournalHeader, in text form
//   > at 1.0525s                          the time from here on, exactly, without a tick
//   > hear agent_spoke { node: 0 ...      any event but a tick: a JournalEvent, in text form
//   > tick heard=0,1                      one tick at this time
//
// Raised events are stepped at once, as the shell does. After every step the invariants are
// checked, and that a core restored from a snapshot does the same; at the end the durable events
// alone are replayed and must give the same digest. Both show up in the transcript when they fail.

#ifndef DSRUN_TESTS_LAUNCHER_COORDINATOR_STORY_PLAYER_H_
#define DSRUN_TESTS_LAUNCHER_COORDINATOR_STORY_PLAYER_H_

#include <string>

namespace dsrun::launcher {

// The story with its transcript made anew. A line that cannot be understood comes out as
// "! what is wrong".
std::string PlayStory(const std::string& story);

}  // namespace dsrun::launcher

#endif  // DSRUN_TESTS_LAUNCHER_COORDINATOR_STORY_PLAYER_H_
