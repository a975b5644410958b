// RandomMessages: what a broken or hostile peer may send. Every choice comes from one seed, which
// is printed; SEED in the environment gives it back.
//
//   RandomMessages random(TestSeed());
//   proto::AgentMessage message;
//   random.Fill(message);                          // fields at random, many at their edges
//   message.ParseFromString(random.Spoil(bytes));  // bytes hit on their way

#ifndef DSRUN_TESTS_SUPPORT_RANDOM_MESSAGES_H_
#define DSRUN_TESTS_SUPPORT_RANDOM_MESSAGES_H_

#include <google/protobuf/message.h>
#include <google/protobuf/stubs/logging.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace dsrun {

uint32_t TestSeed();

class RandomMessages {
 public:
  explicit RandomMessages(uint32_t seed) : random_(seed) {}

  // Texts that mean something to the receiver (job ids, names): every second string is one of them.
  void SetWords(std::vector<std::string> words) { words_ = std::move(words); }

  // Clears `message` and sets its fields at random: absent, small, at the edge of their type, far
  // beyond what makes sense; repeated fields mostly short, sometimes long; one of each oneof.
  void Fill(google::protobuf::Message& message) { Fill(message, /*depth=*/0); }
  // Flips, cuts, doubles or inserts a few bytes.
  std::string Spoil(std::string bytes);

  uint32_t Below(uint32_t limit) { return random_() % limit; }  // REQUIRES: limit > 0
  bool OneIn(uint32_t n) { return Below(n) == 0; }
  int64_t Integer();
  std::string Text();
  std::string Bytes(size_t most);

 private:
  void Fill(google::protobuf::Message& message, int depth);
  void SetField(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field,
                int depth);
  double Real();

  // Spoilt bytes are no news.
  google::protobuf::LogSilencer silence_;
  std::mt19937 random_;
  std::vector<std::string> words_;
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_RANDOM_MESSAGES_H_
