#include "stand_ins/nccl_operation.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "core/bfloat16.h"
#include "stand_ins/device_memory.h"
#include "stand_ins/failure.h"
#include "stand_ins/nccl_exchange.h"

namespace ballot::stand_in {
namespace {

struct Type {
  const char* name;
  std::size_t bytes;
};

const Type& info(ncclDataType_t type) {
  static constexpr std::array<Type, ncclNumTypes> kTypes = {{{"int8", 1},
                                                             {"uint8", 1},
                                                             {"int32", 4},
                                                             {"uint32", 4},
                                                             {"int64", 8},
                                                             {"uint64", 8},
                                                             {"float16", 2},
                                                             {"float32", 4},
                                                             {"float64", 8},
                                                             {"bfloat16", 2},
                                                             {"float8e4m3", 1},
                                                             {"float8e5m2", 1}}};
  if (type < 0 || type >= ncclNumTypes)
    refuse(cudaErrorInvalidValue, "type {}, which NCCL does not have", static_cast<int>(type));
  return kTypes[type];
}

Message offer_of(const Call& call) {
  Message message;
  message.of = call.kind == Call::Kind::all_reduce ? Message::Of::all_reduce : Message::Of::send;
  message.type = call.type;
  message.count = call.count;
  return message;
}

class Group : public Operation {
 public:
  Group(std::vector<Call> made, int rank) : Operation(std::move(made)) {
    std::vector<const Call*> to_self, from_self;
    for (const Call& call : calls) {
      const bool sends = call.kind == Call::Kind::send;
      if (call.peer == rank)
        (sends ? to_self : from_self).push_back(&call);
      else if (sends)
        exchange_.send(call.peer, static_cast<const std::byte*>(call.from), call.bytes(),
                       offer_of(call));
      else
        exchange_.receive(call.peer, static_cast<std::byte*>(call.to), call.bytes(),
                          offer_of(call));
    }
    if (to_self.size() != from_self.size())
      refuse(cudaErrorNotPermitted, "rank {} sends {} messages to itself and receives {} of them",
             rank, to_self.size(), from_self.size());
    for (std::size_t i = 0; i < to_self.size(); ++i) {
      if (to_self[i]->count != from_self[i]->count || to_self[i]->type != from_self[i]->type)
        refuse(cudaErrorInvalidValue,
               "rank {} receives {} of {} from itself where it sends {} of {}", rank,
               from_self[i]->count, name_of(from_self[i]->type), to_self[i]->count,
               name_of(to_self[i]->type));
      to_self_.push_back({from_self[i]->to, to_self[i]->from, to_self[i]->bytes()});
    }
  }

  std::string missing(const World& world) const override { return exchange_.missing(world); }
  bool waits_for(int peer) const override { return exchange_.waits_for(peer); }

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
  };
  bool continues(World& world) override {
    for (const Copy& copy : to_self_)
      if (copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
    to_self_.clear();
    return !exchange_.run(world);
  }

  Exchange exchange_;
  std::vector<Copy> to_self_;
};

template <class T>
T plus(T a, T b) {
  return a + b;
}
template <>
std::int64_t plus(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}
template <>
bfloat16 plus(bfloat16 a, bfloat16 b) {
  return to_bfloat16(to_float(a) + to_float(b));
}

template <class T>
void add(std::byte* sums, const std::byte* terms, std::uint64_t count) {
  auto* to = reinterpret_cast<T*>(sums);
  const auto* from = reinterpret_cast<const T*>(terms);
  for (std::uint64_t i = 0; i < count; ++i) to[i] = plus(to[i], from[i]);
}

void add(ncclDataType_t type, std::byte* sums, const std::byte* terms, std::uint64_t count) {
  switch (type) {
    case ncclUint32:
      return add<std::uint32_t>(sums, terms, count);
    case ncclInt64:
      return add<std::int64_t>(sums, terms, count);
    case ncclUint64:
      return add<std::uint64_t>(sums, terms, count);
    case ncclFloat32:
      return add<float>(sums, terms, count);
    case ncclBfloat16:
      return add<bfloat16>(sums, terms, count);
    default:
      refuse(cudaErrorInvalidValue, "an all-reduce of {}: add it with its rules", name_of(type));
  }
}

// Each rank sums its share of the elements, in the order of ranks, and sends the sums to all.
class AllReduce : public Operation {
 public:
  AllReduce(const Call& call, int collective, int rank, int size)
      : Operation({call}), rank_(rank), size_(size), offer_(offer_of(call)) {
    add(call.type, nullptr, nullptr, 0);  // refuses what it cannot add
    offer_.collective = collective;
    terms_.resize(size);
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      terms_[peer].resize(bytes_of_share(rank));
      to_sum_.send(peer, from() + begin_of_share(peer), bytes_of_share(peer), offer_);
      to_sum_.receive(peer, terms_[peer].data(), bytes_of_share(rank), offer_);
      sums_.send(peer, to() + begin_of_share(rank), bytes_of_share(rank), offer_);
      sums_.receive(peer, to() + begin_of_share(peer), bytes_of_share(peer), offer_);
    }
  }

  std::string missing(const World& world) const override {
    return (summed_ ? sums_ : to_sum_).missing(world);
  }
  bool waits_for(int peer) const override {
    return peer != rank_ && (!summed_ || sums_.waits_for(peer));
  }

 private:
  const std::byte* from() const { return static_cast<const std::byte*>(calls[0].from); }
  std::byte* to() const { return static_cast<std::byte*>(calls[0].to); }
  std::uint64_t first_of_share(int rank) const { return calls[0].count * rank / size_; }
  std::size_t begin_of_share(int rank) const {
    return first_of_share(rank) * bytes_of(calls[0].type);
  }
  std::size_t bytes_of_share(int rank) const {
    return begin_of_share(rank + 1) - begin_of_share(rank);
  }

  void sum() {
    const std::size_t bytes = bytes_of_share(rank_);
    if (bytes == 0) return;
    const std::byte* own = from() + begin_of_share(rank_);
    terms_[rank_].assign(own, own + bytes);
    std::byte* sums = to() + begin_of_share(rank_);
    std::memcpy(sums, terms_[0].data(), bytes);
    for (int rank = 1; rank < size_; ++rank)
      add(calls[0].type, sums, terms_[rank].data(), bytes / bytes_of(calls[0].type));
  }

  bool continues(World& world) override {
    if (!summed_) {
      if (!to_sum_.run(world)) return true;
      sum();
      summed_ = true;
    }
    return !sums_.run(world);
  }

  int rank_, size_;
  Message offer_;
  Exchange to_sum_, sums_;
  std::vector<std::vector<std::byte>> terms_;  // of the own share, by rank
  bool summed_ = false;
};

}  // namespace

std::size_t bytes_of(ncclDataType_t type) {
  return info(type).bytes;
}

std::string name_of(ncclDataType_t type) {
  return info(type).name;
}

std::size_t Call::bytes() const {
  return count * bytes_of(type);
}

void Call::require_memory(int device) const {
  if (bytes() == 0) return;
  for (const void* address : {from, static_cast<const void*>(to)})
    if (kind == Kind::all_reduce && reinterpret_cast<std::uintptr_t>(address) % bytes_of(type) != 0)
      refuse(cudaErrorInvalidValue, "an all-reduce of {} at {}, which is not aligned to it",
             name_of(type), address);
  if (kind != Kind::receive) require_inside(from, bytes(), device, "what NCCL sends");
  if (kind != Kind::send) require_inside(to, bytes(), device, "what NCCL receives into");
}

bool Operation::run(World& world, int device) {
  for (const Call& call : calls) call.require_memory(device);
  const bool in_place = calls[0].kind == Call::Kind::all_reduce && calls[0].from == calls[0].to;
  if (!started_ && !in_place) poison();
  started_ = true;
  return !continues(world);
}

void Operation::poison() const {
  for (const Call& call : calls) {
    if (call.to == nullptr) continue;
    const Allocation* found = find(call.to);
    if (found == nullptr ||
        static_cast<std::byte*>(call.to) + call.bytes() > found->begin + found->bytes)
      continue;
    std::memset(call.to, 0xff, call.bytes());
  }
}

std::shared_ptr<Operation> make_group(std::vector<Call> calls, int rank, int size) {
  auto made = std::make_shared<Group>(std::move(calls), rank);
  made->name = fmt::format("ncclGroup of rank {} of {}", rank, size);
  return made;
}

std::shared_ptr<Operation> make_all_reduce(const Call& call, int collective, int rank, int size) {
  auto made = std::make_shared<AllReduce>(call, collective, rank, size);
  made->name = fmt::format("ncclAllReduce of rank {} of {}", rank, size);
  return made;
}

}  // namespace ballot::stand_in
