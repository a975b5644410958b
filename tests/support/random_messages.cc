#include "tests/support/random_messages.h"

#include <cstdlib>
#include <iostream>
#include <iterator>
#include <limits>
#include <utility>

namespace dsrun {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

constexpr int kMostDepth = 6;
constexpr uint32_t kLongList = 300;

}  // namespace

uint32_t TestSeed() {
  const char* given = getenv("SEED");
  const uint32_t seed =
      given != nullptr ? static_cast<uint32_t>(atoll(given)) : std::random_device()();
  std::cerr << "SEED=" << seed << "\n";
  return seed;
}

int64_t RandomMessages::Integer() {
  constexpr int64_t kEdges[] = {-1,
                                255,
                                1 << 16,
                                std::numeric_limits<int32_t>::max(),
                                std::numeric_limits<int32_t>::min(),
                                std::numeric_limits<int64_t>::max(),
                                std::numeric_limits<int64_t>::min(),
                                1'000'000'000};
  if (OneIn(3)) return kEdges[Below(std::size(kEdges))];
  return Below(4);
}

double RandomMessages::Real() {
  constexpr double kEdges[] = {-1,
                               1e308,
                               -1e308,
                               1e-308,
                               std::numeric_limits<double>::infinity(),
                               -std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()};
  return OneIn(2) ? kEdges[Below(std::size(kEdges))] : Below(1000) / 7.0;
}

// UTF-8, as protobuf wants it; with control characters and others that a terminal may not like.
std::string RandomMessages::Text() {
  if (!words_.empty() && OneIn(2)) return words_[Below(static_cast<uint32_t>(words_.size()))];
  constexpr const char* kPieces[] = {
      "a",  "/",  "..", "\n",   "\x1b[2J", "%s", "\"", "\\", "\xc3\xa9", "\xe2\x82\xac",
      "{}", "\t", " ",  "\x7f", "0",       "-"};
  const uint32_t length = OneIn(30) ? 5000 : Below(8);
  std::string text;
  for (uint32_t i = 0; i < length; ++i) text += kPieces[Below(std::size(kPieces))];
  return text;
}

std::string RandomMessages::Bytes(size_t most) {
  std::string bytes(Below(static_cast<uint32_t>(most) + 1), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random_());
  return bytes;
}

void RandomMessages::Fill(Message& message, int depth) {
  message.Clear();
  if (depth > kMostDepth) return;
  const auto& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.containing_oneof() != nullptr || OneIn(5)) continue;
    SetField(message, field, depth);
  }
  for (int i = 0; i < type.oneof_decl_count(); ++i) {
    const OneofDescriptor& oneof = *type.oneof_decl(i);
    if (OneIn(20)) continue;  // none of them
    const auto choice = Below(static_cast<uint32_t>(oneof.field_count()));
    SetField(message, *oneof.field(static_cast<int>(choice)), depth);
  }
}

void RandomMessages::SetField(Message& message, const FieldDescriptor& field, int depth) {
  const Reflection& with = *message.GetReflection();
  const bool list = field.is_repeated();
  const uint32_t count = !list ? 1 : OneIn(50) ? kLongList : Below(4);
  for (uint32_t i = 0; i < count; ++i) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32: {
        const auto value = static_cast<int32_t>(Integer());
        list ? with.AddInt32(&message, &field, value) : with.SetInt32(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        const int64_t value = Integer();
        list ? with.AddInt64(&message, &field, value) : with.SetInt64(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT32: {
        const auto value = static_cast<uint32_t>(Integer());
        list ? with.AddUInt32(&message, &field, value) : with.SetUInt32(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT64: {
        const auto value = static_cast<uint64_t>(Integer());
        list ? with.AddUInt64(&message, &field, value) : with.SetUInt64(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        const double value = Real();
        list ? with.AddDouble(&message, &field, value) : with.SetDouble(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_FLOAT: {
        const auto value = static_cast<float>(Real());
        list ? with.AddFloat(&message, &field, value) : with.SetFloat(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_BOOL: {
        const bool value = OneIn(2);
        list ? with.AddBool(&message, &field, value) : with.SetBool(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_ENUM: {  // also numbers that have no name
        const auto value = static_cast<int>(Integer());
        list ? with.AddEnumValue(&message, &field, value)
             : with.SetEnumValue(&message, &field, value);
        break;
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        std::string value = field.type() == FieldDescriptor::TYPE_BYTES ? Bytes(40) : Text();
        list ? with.AddString(&message, &field, std::move(value))
             : with.SetString(&message, &field, std::move(value));
        break;
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        Fill(list ? *with.AddMessage(&message, &field) : *with.MutableMessage(&message, &field),
             depth + 1);
        break;
    }
  }
}

std::string RandomMessages::Spoil(std::string bytes) {
  for (uint32_t i = 0; i < 1 + Below(4); ++i) {
    const size_t at = bytes.empty() ? 0 : Below(static_cast<uint32_t>(bytes.size()));
    switch (Below(5)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << Below(8)));
        break;
      case 1:
        bytes.resize(at);
        break;
      case 2:
        bytes.insert(at, Bytes(10));
        break;
      case 3:
        bytes.insert(at, bytes.substr(at, Below(40)));
        break;
      case 4:
        if (!bytes.empty()) bytes[at] = '\xff';  // a length that never ends
        break;
    }
  }
  return bytes;
}

}  // namespace dsrun
