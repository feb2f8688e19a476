"""The resident service: ranks keep shards and compiled products, and many clients ask them.

The front is a process outside MPI. It owns the queue, the batches and the states, answers HTTP, and
starts the ranks as its child. No algorithm is here: jobs are calls of `hesscomp.workflows`.
"""
