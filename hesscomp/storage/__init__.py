"""Everything that touches a disk: atomic files, guarded HDF5, slabs, locks, archives, arrays."""
