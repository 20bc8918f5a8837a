// Reading and writing the values that the coordinator's messages share: bounds are checked on the
// way in. Private to this folder: it brings protobuf's headers.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"
#include "proto/coordinator.pb.h"
#include "runtime/coordinator/convert.h"

namespace ballot {

// Where a value stands within a message ("order.record.workers[3].address"); its text is made only
// for an error.
struct Field {
  const Field* parent;
  const char* name;
  int index = -1;
  std::string text() const {
    return (parent == nullptr ? "" : parent->text() + ".") + name +
           (index < 0 ? "" : fmt::format("[{}]", index));
  }
};

template <class Value>
void expect(bool holds, const Field& field, const Value& value, std::string_view expected) {
  if (!holds) throw TransportError("{} = {}: expected {}", field.text(), value, expected);
}
// A message within a message that must be there: given(m.has_held(), m.held(), field).
template <class Message>
const Message& given(bool there, const Message& message, const Field& field) {
  if (!there) throw TransportError("{} is missing", field.text());
  return message;
}

std::int64_t read_count(std::int64_t value, const Field& field);
std::int32_t read_worker(std::int32_t value, const Field& field);
double read_share(double value, const Field& field);    // 0 to 1
double read_measure(double value, const Field& field);  // finite, 0 or more
int read_size(int size, std::size_t most, const Field& field);
std::string read_text(const std::string& text, std::size_t least, std::size_t most,
                      const Field& field);
// "host:port", as peers dial it.
std::string read_address(const std::string& text, const Field& field);
// A file of a checkpoint folder: whoever publishes it must not be led elsewhere.
std::string read_file_name(const std::string& text, const Field& field);

void write(const Digest& from, wire::Digest& to);
Digest read(const wire::Digest& from);
void write(const Position& from, wire::Position& to);
Position read(const wire::Position& from, const Field& field);
void write(const Identity& from, wire::Identity& to);
Identity read(const wire::Identity& from, const Field& field);
void write(const SampleRange& from, wire::SampleRange& to);
SampleRange read(const wire::SampleRange& from, const Field& field);
void write(const CheckpointFact& from, wire::CheckpointFact& to);
CheckpointFact read(const wire::CheckpointFact& from, const Field& field, std::size_t most_files);
void write(const TermRecord& from, wire::TermRecord& to);
TermRecord read(const wire::TermRecord& from, const Field& field);

void write(const RecordedStep& from, wire::RecordedStep& to);
RecordedStep read(const wire::RecordedStep& from, const Field& field);

wire::WorkerState wire_state(WorkerState state);
WorkerState read_state(wire::WorkerState state, const Field& field);

// Protobuf complains on standard error of its own accord; what is wrong is said by our errors.
void quiet_protobuf();

template <class Message>
Message parse(ConstBytes bytes, const char* name, std::size_t most) {
  if (bytes.size() > most)
    throw TransportError("{} of {} bytes, expected at most {}", name, bytes.size(), most);
  quiet_protobuf();
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    throw TransportError("{} of {} bytes is no well-formed message", name, bytes.size());
  return message;
}

template <class Message>
std::string serialize(const Message& message, std::size_t most) {
  std::string bytes = message.SerializeAsString();
  require(bytes.size() <= most, "a message of {} bytes, expected at most {}", bytes.size(), most);
  return bytes;
}

}  // namespace ballot
