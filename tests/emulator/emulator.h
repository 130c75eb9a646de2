// The emulator's C interface: launch a kernel, and what went wrong.
#pragma once

extern "C" {

struct EmulatorGeometry {
  unsigned grid, cluster, block, shared_bytes;
  unsigned seed;      // 0: in order, asynchronous stores at once
  unsigned resident;  // clusters that live at the same time; 0 is 1
};

// Runs the kernel to its end. 0, or 1 where a thread misused the machine or none could go on; the
// kernel has then been abandoned, and emulator_message() says why.
int emulator_launch(void (*kernel)(const void* params), const void* params,
                    const EmulatorGeometry* geometry);
const char* emulator_message();

// Of the last launch: asynchronous stores delivered, and the largest number under way at once.
unsigned long long emulator_stores();
unsigned long long emulator_most_stores_under_way();
}
