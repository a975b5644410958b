// Another user of this machine, for tests: a child that drops to a numeric uid (which needs no
// entry in any file) and does what it is told. Needs root.

#ifndef DSRUN_TESTS_ATTACKS_ATTACKER_H_
#define DSRUN_TESTS_ATTACKS_ATTACKER_H_

#include <sys/types.h>

#include <functional>
#include <string>

namespace dsrun {

// Of nobody here.
inline constexpr uid_t kStranger = 54329;

// A child of user `uid` that runs `body` and ends. `body` gets two pipes: what it writes to `out`
// is heard here; when `stop` can be read, it should come to its end.
class Attacker {
 public:
  Attacker(uid_t uid, const std::function<void(int out, int stop)>& body);
  ~Attacker();  // Finish
  Attacker(const Attacker&) = delete;

  // The next line that it says, within 20 s; fails the test else.
  std::string Line();
  // Tells it to stop, and returns all it has said that was not read yet; within 20 s.
  std::string Finish();

 private:
  pid_t child_ = 0;
  int out_ = -1;
  int stop_ = -1;
};

// What `body` returns when user `uid` runs it.
std::string AsUser(uid_t uid, const std::function<std::string()>& body);

// For bodies.
void SayLine(int out, const std::string& line);
bool IsToStop(int stop);  // now
// Until it is told to.
void AwaitStop(int stop);

}  // namespace dsrun

#endif  // DSRUN_TESTS_ATTACKS_ATTACKER_H_
