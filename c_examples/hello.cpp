// SPDX-License-Identifier: MIT OR Apache-2.0
//
// hello.cpp - hello.c with squall.hpp: the group closes itself, handlers are lambdas and may throw.
//
//   c++ -std=c++17 hello.cpp $(pkg-config --cflags --libs squall) -o hello++
//   for rank in 0 1 2; do ./hello++ demo $rank 3 & done; wait
#include <squall.hpp>

#include <iostream>

int main(int argc, char** argv) try {
  if (argc != 4) return std::cerr << "usage: hello++ NAME RANK MEMBERS\n", 1;
  squall::options options;
  options.name = argv[1];
  options.rank = static_cast<std::uint32_t>(std::stoul(argv[2]));
  options.members = static_cast<std::uint32_t>(std::stoul(argv[3]));

  unsigned heard = 0;
  squall::handlers handlers;
  handlers.message = [&](squall::group_view, std::uint32_t, const squall::message& message) {
    std::cout << "rank " << message.rank() << " says: " << message.text() << '\n';
    heard++;
  };
  auto group = squall::group::open(options, handlers);  // waits for the other members

  group.send(std::string("hello from ") + argv[2] + " of " + argv[3]).value();
  group.run([&] { return heard == options.members; }).value();
  return 0;
} catch (const std::exception& failure) {
  std::cerr << "hello++: " << failure.what() << '\n';
  return 1;
}
