"""Files behind http(s) URLs, read by ranges.

store        `HttpStore`: ranges, whole files, resumed where they broke
redirects    where a URL leads
replies      what is believed
connections  kept open, shared by the threads of a process
"""
