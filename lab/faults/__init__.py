"""`catflap lab faults`: a part dies under a steady load. What did clients see, who waited, what was lost?"""
