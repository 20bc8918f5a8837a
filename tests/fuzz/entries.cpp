#include "tests/fuzz/entries.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "collectives/transport/grpc_frames.h"
#include "collectives/transport/peer_inbox.h"
#include "collectives/transport/peer_outbox.h"
#include "core/error.h"
#include "models/gpt2/gpt2_config.h"
#include "models/llama/llama_config.h"
#include "models/safetensors.h"
#include "models/strict_json.h"
#include "models/tokenizer.h"
#include "runtime/journal/format.h"
#include "runtime/journal/journal.h"
#include "runtime/question_answers.h"
#include "runtime/token_source.h"
#include "tests/runtime/journal_support.h"
#include "tests/support/memory_disk.h"

namespace ballot::fuzz {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class Action>
bool accepted(const Action& action) {
  try {
    action();
    return true;
  } catch (const WorldError&) {
    return false;
  }
}

bool run_safetensors(std::span<const std::byte> bytes) {
  return accepted([&] {
    const SafetensorsReader reader(bytes, "input");
    std::uint64_t covered = 0;
    unsigned sum = 0;
    for (const StoredTensor& tensor : reader.tensors()) {
      require(static_cast<std::uint64_t>(tensor.count()) * size_bytes(tensor.type) ==
                  tensor.bytes.size(),
              "tensor {} has {} bytes", tensor.name, tensor.bytes.size());
      for (const std::byte byte : tensor.bytes)
        sum += std::to_integer<unsigned>(byte);  // touch each
      covered += tensor.bytes.size();
    }
    require(covered < bytes.size() && sum <= 255 * covered, "tensors of {} bytes in {}", covered,
            bytes.size());
  });
}

bool run_config(std::span<const std::byte> bytes) {
  return accepted([&] {
    const LlamaConfig config = parse_llama_config(std::string(text_of(bytes)), "input");
    require(to_json(parse_llama_config(to_json(config), "again")) == to_json(config),
            "a config changes when rewritten");
    require(!llama_parameter_shapes(config).empty(), "no shapes");
  });
}

bool run_gpt2_config(std::span<const std::byte> bytes) {
  return accepted([&] {
    const Gpt2Config config = parse_gpt2_config(std::string(text_of(bytes)), "input");
    require(to_json(parse_gpt2_config(to_json(config), "again")) == to_json(config),
            "a config changes when rewritten");
    require(!gpt2_parameter_shapes(config).empty(), "no shapes");
  });
}

bool run_questions(std::span<const std::byte> bytes) {
  return accepted([&] {
    for (const QuestionAnswer& one : parse_questions(text_of(bytes), "input")) {
      const std::string answer = final_answer(one.answer).value();
      require(final_answer("#### " + answer) == answer, "the answer {} is read as another", answer);
    }
  });
}

bool run_tokenizer(std::span<const std::byte> bytes) {
  return accepted([&] {
    const std::unique_ptr<Tokenizer> tokenizer =
        parse_tokenizer(std::string(text_of(bytes)), "input");
    const std::string_view text = text_of(bytes).substr(0, 200);
    const std::string decoded = tokenizer->decode(tokenizer->encode(text));
    require(!tokenizer->lossless() || decoded == text, "bytes do not come back");
    for (const std::int32_t token : tokenizer->encode(text, true))
      require(token >= 0 && token < tokenizer->vocabulary(), "token {} outside", token);
  });
}

bool run_source(std::span<const std::byte> bytes, const char* format) {
  static const std::unique_ptr<Tokenizer> tokenizer =
      parse_tokenizer(byte_tokenizer_json(), "tokenizer");
  return accepted([&] {
    TokenSource source;
    source.path = "input";
    source.format = format;
    const DocumentRules rules;
    const DataReader reader{*tokenizer, rules, std::string()};
    const TokenData data = parse_token_data(text_of(bytes), source, reader);
    for (std::int64_t i = 0; i < data.tokens().size(); ++i)
      require(data.tokens().token(i) >= 0 && data.tokens().token(i) < tokenizer->vocabulary(),
              "token {} outside", data.tokens().token(i));
    require(data.trained() <= data.predictable() &&
                data.predictable() + data.documents() == data.tokens().size(),
            "{} of {} tokens trained on, {} documents", data.trained(), data.predictable(),
            data.documents());
  });
}
bool run_jsonl(std::span<const std::byte> bytes) {
  return run_source(bytes, "jsonl");
}
bool run_bin(std::span<const std::byte> bytes) {
  return run_source(bytes, "bin");
}

// A gRPC message of frames from rank 1 of term 7 to a worker that waits for 100 bytes of transfer 0
// and an empty message of transfer 1, and sends 50 bytes in transfer 0. Headers are sealed here, so
// that mutations come past the checksum.
bool run_peer_frame(std::span<const std::byte> bytes) {
  PeerInbox inbox;
  std::vector<std::byte> memory(100);
  std::vector<Inbound> inbounds(2);
  for (std::size_t number = 0; number < inbounds.size(); ++number) {
    Inbound& inbound = inbounds[number];
    inbound.key = {0, number};
    if (number == 0) {
      inbound.parts = {Bytes(memory).first(30), {}, Bytes(memory).subspan(30)};
      inbound.total = memory.size();
    }
    inbox.open(inbound);
    inbox.start(inbound);
  }
  PeerOutbox outbox(4096);
  const std::vector<std::byte> sent(50);
  Outbound outbound;
  outbound.parts = {sent};
  outbound.total = sent.size();
  outbox.open(outbound);
  outbox.start(outbound);
  return accepted([&] {
    do {
      std::vector<std::byte> first(
          bytes.begin(),
          bytes.begin() + static_cast<std::ptrdiff_t>(std::min(bytes.size(), kFrameHeaderBytes)));
      FrameHeader header;
      if (first.size() == kFrameHeaderBytes) {
        std::memcpy(&header, first.data(), first.size());
        seal_frame_header(header);
        std::memcpy(first.data(), &header, first.size());
      }
      header = read_frame_header(first, bytes.size(), 7, 1);
      bytes = bytes.subspan(kFrameHeaderBytes);
      for (std::uint32_t n = 0; n < header.notices; ++n) {
        ReadyNotice notice;
        std::memcpy(&notice, bytes.data(), sizeof notice);
        bytes = bytes.subspan(sizeof notice);
        outbox.ready(notice);
      }
      if (header.kind == FrameKind::data)
        inbox.receive(header, {{bytes.first(header.length)}, nullptr});
      bytes = bytes.subspan(header.length);
      for (Inbound& inbound : inbounds)
        while (const auto frame = inbox.take(inbound)) {
          copy_frame(inbound, *frame);
          inbox.copied(inbound, *frame);
          require(inbound.received <= inbound.total, "{} bytes of {} received", inbound.received,
                  inbound.total);
        }
      require(inbox.early_bytes() <= kMostEarlyBytes, "{} bytes kept early", inbox.early_bytes());
    } while (!bytes.empty());
  });
}

std::string small_frames() {
  std::string message;
  const auto add = [&](FrameKind kind, std::uint64_t number, std::uint64_t offset,
                       std::uint32_t length, std::uint64_t total, std::uint32_t notices = 0) {
    FrameHeader header;
    header.kind = kind;
    header.term = 7;
    header.sender = 1;
    header.number = number;
    header.offset = offset;
    header.length = length;
    header.total = total;
    header.notices = notices;
    message.append(reinterpret_cast<const char*>(&header), sizeof header);
    for (std::uint32_t n = 0; n < notices; ++n) {
      const ReadyNotice notice{0, n, 0};
      message.append(reinterpret_cast<const char*>(&notice), sizeof notice);
    }
    message.append(length, 'x');
  };
  add(FrameKind::data, 0, 0, 60, 100, 2);
  add(FrameKind::data, 5, 0, 20, 200);  // not opened here
  add(FrameKind::data, 1, 0, 0, 0);
  add(FrameKind::data, 0, 60, 40, 100);
  add(FrameKind::leave, 0, 0, 5, 0);
  return message;
}

std::string string_of(std::span<const std::byte> bytes) {
  return std::string(text_of(bytes));
}

bool run_journal_record(std::span<const std::byte> bytes) {
  return accepted([&] {
    const Record record = decode_record(bytes, "input");
    const std::vector<std::byte> again = encode(record);
    require(std::ranges::equal(again, bytes), "a record changes when rewritten");
    require(decode_record(bytes, "input", 0, Depth::header).position() == record.position(),
            "a header has another position");
  });
}

// A segment file. The frames' checksums are made right again wherever a frame can be found, so that
// mutations come past them.
bool run_journal_segment(std::span<const std::byte> bytes) {
  std::vector<std::byte> file(bytes.begin(), bytes.end());
  if (file.size() >= journal::kSegmentHeaderBytes) {
    Position start;
    std::memcpy(&start.step, file.data() + 32, 8);
    std::memcpy(&start.digest, file.data() + 40, 16);
    const auto header = journal::encode(journal::SegmentHeader{kTestRun, start});
    std::ranges::copy(header, file.begin());
  }
  for (std::size_t at = journal::kSegmentHeaderBytes;
       at + journal::kFrameHeaderBytes <= file.size();) {
    journal::FrameHeader header;
    std::memcpy(&header.kind, file.data() + at + 4, 4);
    std::memcpy(&header.step, file.data() + at + 8, 8);
    std::memcpy(&header.length, file.data() + at + 16, 8);
    const std::size_t payload = at + journal::kFrameHeaderBytes;
    if (header.length > file.size() - payload) break;
    const std::uint64_t seed = journal::frame_seed(1, at);
    header.checksum = journal::frame_checksum(
        std::span(file).subspan(payload, static_cast<std::size_t>(header.length)), seed);
    std::ranges::copy(journal::encode(header, seed), file.begin() + static_cast<long>(at));
    at = payload + static_cast<std::size_t>(header.length);
  }
  return accepted([&] {
    const std::string folder = "shard";
    MemoryDisk disk;
    disk.open_append(folder + "/" + journal::segment_name(1))->append(file);
    const JournalReader lenient(disk, folder, OnDamage::stop);
    require(disk.most_read <= file.size() + 1, "{} bytes read of {}", disk.most_read, file.size());
    const JournalReader reader(disk, folder);
    for (std::int64_t step = reader.begin().step + 1; step <= reader.end().step; ++step) {
      reader.read(step);
      reader.applied(step);
    }
  });
}

std::string small_record() {
  RecordShape shape;
  shape.holds_elements = true;
  return string_of(encode(make_record(kTestStart, 1, shape)));
}

std::string small_segment() {
  MemoryDisk disk;
  Journal journal(disk, "shard", kTestRun, kTestStart);
  for (const Record& record : make_records(3, kTestStart, 1, {2, 1, 2, 2, 1, false})) {
    journal.append(record, ShardPlan{0, 2, 1});
    journal.append(AppliedRecord{record.step, 1, 2, {3, 4}});
  }
  return string_of(disk.bytes("shard/" + journal::segment_name(1)));
}

std::string small_safetensors() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"c":{"dtype":"U8","shape":[0],"data_offsets":[22,22]}})";
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(22, 'x');
}

std::string small_config() {
  LlamaConfig config;
  config.hidden_size = 64;
  config.intermediate_size = 128;
  config.layers = config.heads = config.key_value_heads = 2;
  config.head_size = 32;
  config.vocabulary = 258;
  config.max_positions = 64;
  return to_json(config);
}

std::string small_bin() {
  const std::int32_t header[256] = {20240520, 1, 3};
  const std::uint16_t tokens[3] = {1, 2, 257};
  return std::string(reinterpret_cast<const char*>(header), sizeof header) +
         std::string(reinterpret_cast<const char*>(tokens), sizeof tokens);
}

// Tokenizers of Llama 3's kind and of Llama 2's, with something of every part.
std::string small_tokenizer(bool byte_level) {
  using nlohmann::json;
  json root = json::parse(byte_level ? byte_tokenizer_json() : R"({
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"},
      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "byte_fallback": true, "vocab": {"_": 300, "t": 301, "_t": 302}}})");
  json& vocabulary = root["model"]["vocab"];
  if (byte_level) {
    vocabulary["in"] = 300;
    root["model"]["ignore_merges"] = true;
    root["pre_tokenizer"] = json::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "(?i:'s)| ?\\p{L}+|\\s+(?!\\S)|\\s+"},
       "behavior": "Isolated", "invert": false},
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})");
  } else {
    for (int byte = 0; byte < 256; ++byte) vocabulary[fmt::format("<0x{:02X}>", byte)] = byte;
  }
  root["model"]["merges"] = json::array({byte_level ? json("i n") : json::array({"_", "t"})});
  root["added_tokens"].push_back({{"id", 400}, {"content", "type"}, {"rstrip", true}});
  root["added_tokens"].push_back(
      {{"id", 401}, {"content", "true"}, {"normalized", true}, {"single_word", true}});
  root["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "s"}}, {"Sequence": {"id": "A"}}],
    "special_tokens": {"s": {"ids": [400]}}})");
  return root.dump();
}

}  // namespace

const std::vector<Entry>& entries() {
  static const std::vector<Entry> all = with_cluster_entries(
      with_data_entries(with_checkpoint_entries(with_peer_entries(with_coordinator_entries({
          {"safetensors", run_safetensors, {small_safetensors()}},
          {"config",
           run_config,
           {small_config(),
            R"({"model_type":"llama","hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,)"
            R"("num_attention_heads":2,"vocab_size":9,"eos_token_id":[1,2],)"
            R"("rope_parameters":{"rope_type":"default","rope_theta":5e5}})"}},
          {"gpt2_config",
           run_gpt2_config,
           {R"({"model_type":"gpt2","n_embd":64,"n_layer":2,"n_head":4,"vocab_size":258,)"
            R"("n_inner":null,"n_positions":77,"activation_function":"gelu_new",)"
            R"("tie_word_embeddings":false,"eos_token_id":[4,5],"resid_pdrop":0.1})"}},
          {"tokenizer",
           run_tokenizer,
           {byte_tokenizer_json(), small_tokenizer(true), small_tokenizer(false)}},
          {"jsonl",
           run_jsonl,
           {"{\"text\":\"ab\\u00e9\"}\n\n{\"text\":\"\"}\n",
            "{\"question\":\"q\",\"answer\":\"a\\n\",\"n\":[1,{}]}"}},
          {"questions",
           run_questions,
           {"{\"question\":\"1+1?\",\"answer\":\"so\\n#### 1,002.50\"}\n\n"
            "{\"question\":\"?\",\"answer\":\"#### -3\"}\n"}},
          {"bin", run_bin, {small_bin()}},
          {"peer_frame", run_peer_frame, {small_frames()}},
          {"journal_record", run_journal_record, {small_record()}},
          {"journal_segment", run_journal_segment, {small_segment()}},
      })))));
  return all;
}

}  // namespace ballot::fuzz
