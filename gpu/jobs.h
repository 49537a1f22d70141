// What the scheduler gives to the device's threads: rounds of copies, and launches.
#pragma once
#include <string>
#include <vector>

#include "gpu/device.h"
#include "gpu/peer.h"

namespace vkv::gpu {

// Slabs that a client has filled, for the copier.
struct CopyRound {
    Request *request = nullptr;
    TileKind kind;
    std::vector<Fill> fills;
    std::vector<uint32_t> slabs;
    std::vector<Copy> copies;
    struct Facts {
        uint16_t bytes;
        uint8_t codec;
    };
    // Of the copier: what the tiles are, or what is wrong with one, or with the device.
    std::vector<Facts> facts;
    std::string bad_tile, device_error;
};

// Requests that run together.
struct Launch {
    struct Answer {
        Request *request;
        int fd;
        offload::Figures figures;
        bool delivered = false;  // of the launcher: the client was still there
    };
    std::vector<Answer> answers;
    AttendBatch batch;  // empty for a request for nearest vectors, which runs alone
    // Of the launcher.
    std::string device_error;
    uint64_t device_us = 0;
};

// Checks the round's tiles and has the device copy them.
void copy_round(Device *device, CopyRound *round);
// Runs the batch, writes figures, and answers: the states are with the client before anybody looks after the books.
void run_launch(Device *device, Launch *launch);

void write_failure(uint8_t *area, const std::string &text);
uint64_t now_us();  // CLOCK_MONOTONIC

}  // namespace vkv::gpu
