"""Work on untrusted bytes in processes of their own, which can be ended.

worker_pool: the processes, seen from the server. worker_process: what runs in each. json_body and image_decoding: the
work. None of what a worker imports loads torch.
"""
