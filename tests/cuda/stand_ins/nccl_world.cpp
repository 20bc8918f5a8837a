#include "stand_ins/nccl_world.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <set>

#include "stand_ins/failure.h"

namespace ballot::stand_in {
namespace {

// Of every byte of the id: one that was passed on in part is another.
std::string text_of(const ncclUniqueId& id) {
  std::string text;
  for (std::uint64_t hash : {0xcbf29ce484222325ull, 0x84222325cbf29ce4ull}) {
    for (const char c : id.internal) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    text += fmt::format("{:016x}", hash);
  }
  return text;
}

// A name without a file, which goes with its socket.
socklen_t fill_address(sockaddr_un& address, const std::string& name) {
  address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

int make_socket() {
  const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (made < 0)
    refuse(cudaErrorOperatingSystem, "no socket for the stand-in of NCCL: {}",
           std::strerror(errno));
  return made;
}

// Of this process. A unique id serves once.
std::set<std::string>& names_used() {
  static auto* instance = new std::set<std::string>;
  return *instance;
}

}  // namespace

World::World(const ncclUniqueId& id, int rank, int size, int device)
    : rank_(rank), size_(size), device_(device), id_(text_of(id)), links_(size) {
  listen_at_own_name();
}

void World::leave() {
  for (auto& link : links_) link.reset();
  arrivals_.clear();
  if (listener_ >= 0) close(listener_);
  listener_ = -1;
}

std::string World::name_of(int rank) const {
  return fmt::format("ballot-stand-in-nccl-{}-{}", id_, rank);
}

void World::listen_at_own_name() {
  const std::string name = name_of(rank_);
  if (!names_used().insert(name).second)
    refuse(cudaErrorInvalidValue,
           "rank {} of {} exists or existed already: a unique id serves once", rank_, size_);
  listener_ = make_socket();
  sockaddr_un address;
  const socklen_t bytes = fill_address(address, name);
  const bool listens = bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes) == 0 &&
                       listen(listener_, size_) == 0;
  if (listens) return;
  const int error = errno;
  leave();
  if (error == EADDRINUSE)
    refuse(cudaErrorInvalidValue, "rank {} of {} exists already in another process", rank_, size_);
  refuse(cudaErrorOperatingSystem, "rank {} cannot listen: {}", rank_, std::strerror(error));
}

Message World::greeting() const {
  Message message;
  message.kind = Message::Kind::hello;
  message.rank = rank_;
  message.size = size_;
  message.device = device_;
  message.process = getpid();
  return message;
}

void World::connect_to(int peer) {
  const int made = make_socket();
  sockaddr_un address;
  const socklen_t bytes = fill_address(address, name_of(peer));
  if (connect(made, reinterpret_cast<sockaddr*>(&address), bytes) != 0) {
    close(made);  // has not come yet
    return;
  }
  links_[peer] = std::make_unique<Link>(made);
  links_[peer]->say(greeting());
}

void World::accept_arrivals() {
  while (true) {
    const int made = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (made < 0 && errno == EINTR) continue;
    if (made < 0) return;
    arrivals_.push_back(std::make_unique<Link>(made));
  }
}

void World::check(const Message& hello) const {
  if (hello.size != size_)
    refuse(cudaErrorInvalidValue, "rank {} says that there are {} ranks, rank {} says {}", rank_,
           size_, hello.rank, hello.size);
  if (hello.process == getpid() && hello.device == device_)
    refuse(cudaErrorNotPermitted, "ranks {} and {} are both on device {}", rank_, hello.rank,
           device_);
}

void World::meet_arrivals() {
  for (auto& arrival : arrivals_) {
    arrival->progress(false);
    if (!arrival->hello) continue;
    check(*arrival->hello);
    const int peer = arrival->hello->rank;
    if (peer <= rank_ || links_[peer] != nullptr)
      refuse(cudaErrorInvalidValue, "rank {} met rank {} twice", rank_, peer);
    arrival->say(greeting());
    links_[peer] = std::move(arrival);
  }
  std::erase_if(arrivals_, [](const auto& a) { return a == nullptr || a->gone; });
}

bool World::progress(bool within_operation) {
  if (!met_all_) {
    for (int peer = 0; peer < rank_; ++peer)
      if (links_[peer] == nullptr) connect_to(peer);
    accept_arrivals();
    meet_arrivals();
  }
  bool moved = false;
  for (const auto& link : links_)
    if (link != nullptr) moved |= link->progress(within_operation);
  if (met_all_ || !missing().empty()) return moved;
  for (const auto& link : links_)
    if (link != nullptr) check(*link->hello);
  met_all_ = true;
  return moved;
}

std::string World::missing() const {
  std::string text;
  for (int peer = 0; peer < size_; ++peer)
    if (peer != rank_ && (links_[peer] == nullptr || !links_[peer]->hello))
      text += fmt::format("{}rank {}", text.empty() ? "" : ", ", peer);
  return text;
}

void World::say_to_all(const Message& message) {
  for (const auto& link : links_) {
    if (link == nullptr) continue;
    link->say(message);
    link->progress(false);
  }
}

bool World::has_said_all() const {
  return std::all_of(links_.begin(), links_.end(), [](const auto& link) {
    return link == nullptr || link->gone || link->has_said_all();
  });
}

}  // namespace ballot::stand_in
